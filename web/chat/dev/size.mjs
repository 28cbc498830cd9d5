// Fails when a built page outgrows its budget, in kilobytes after gzip. Run in the page's folder:
// size.mjs <name of the page> <budget of its scripts> <budget of its styles>
import { readdirSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';

const [page, js, css] = process.argv.slice(2);
const BUDGET_KB = { js: Number(js), css: Number(css) };
const dist = pathToFileURL(`${process.cwd()}/dist/`);
const folder = new URL(`assets/${page}/`, dist);

let failed = false;
for (const [extension, budget] of Object.entries(BUDGET_KB)) {
  const files = readdirSync(folder).filter((name) => name.endsWith(`.${extension}`));
  const bytes = files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, folder)), { level: 9 }).length, 0);
  const size = bytes / 1024;
  console.log(`${extension}: ${size.toFixed(1)} kB gzip of ${budget} kB`);
  if (files.length === 0 || size > budget) failed = true;
}
const index = readFileSync(new URL('index.html', dist), 'utf8');
if (/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/i.test(index)) {
  console.error('index.html holds inline script or style, which the content security policy forbids');
  failed = true;
}
process.exit(failed ? 1 : 0);
