// Fails when a built page outgrows its budget, in kilobytes after gzip. Run in the page's folder:
// size.mjs <name of the page> <budget of its scripts> <budget of its styles> [<budget of scripts that
// come later with any one thing that a person opens> <budget of all of these>]. Without the last two,
// every script counts as one of the first.
import { readdirSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';

const [page, js, css, later, allLater] = process.argv.slice(2);
const dist = pathToFileURL(`${process.cwd()}/dist/`);
const folder = new URL(`assets/${page}/`, dist);

let failed = false;
const index = readFileSync(new URL('index.html', dist), 'utf8');
const all = readdirSync(folder);
const scripts = all.filter((name) => name.endsWith('.js'));
// The page names what it begins with.
const comesLater = (name) => later !== undefined && !index.includes(`/${name}`);
hold('js', scripts.filter((name) => !comesLater(name)), js);
hold('css', all.filter((name) => name.endsWith('.css')), css);
if (later !== undefined) {
  const lates = scripts.filter(comesLater);
  const opened = lates.map(withImports).sort((one, other) => kilobytes(other) - kilobytes(one));
  hold(`js later, the most at once (${opened[0]?.[0]})`, opened[0] ?? [], later);
  hold('js later, all', lates, allLater);
}

/** A script and those that come with it, without those that the page began with. */
function withImports(name) {
  const found = [name];
  for (const one of found) {
    const text = readFileSync(new URL(one, folder), 'utf8');
    const named = [...text.matchAll(/(?:from|import)\s*"\.\/([^"]+\.js)"/g)].map((match) => match[1]);
    found.push(...named.filter((other) => comesLater(other) && !found.includes(other)));
  }
  return found;
}

function kilobytes(files) {
  return files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, folder)), { level: 9 }).length, 0) / 1024;
}

function hold(what, files, budget) {
  const size = kilobytes(files);
  console.log(`${what}: ${size.toFixed(1)} kB gzip of ${budget} kB`);
  if (files.length === 0 || size > Number(budget)) failed = true;
}
if (/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/i.test(index)) {
  console.error('index.html holds inline script or style, which the content security policy forbids');
  failed = true;
}
process.exit(failed ? 1 : 0);
