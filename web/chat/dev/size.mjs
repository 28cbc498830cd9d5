// Fails when a built page outgrows its budget, in kilobytes after gzip. Run in the page's folder:
// size.mjs <name of the page> <budget of its scripts> <budget of its styles> [<budget of scripts that
// come later, with what a person opens>]. Without the last, every script counts as one of the first.
import { readdirSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';

const [page, js, css, later] = process.argv.slice(2);
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
if (later !== undefined) hold('js later', scripts.filter(comesLater), later);

function hold(what, files, budget) {
  const bytes = files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, folder)), { level: 9 }).length, 0);
  const size = bytes / 1024;
  console.log(`${what}: ${size.toFixed(1)} kB gzip of ${budget} kB`);
  if (files.length === 0 || size > Number(budget)) failed = true;
}
if (/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/i.test(index)) {
  console.error('index.html holds inline script or style, which the content security policy forbids');
  failed = true;
}
process.exit(failed ? 1 : 0);
