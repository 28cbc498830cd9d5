// Fails when the built page outgrows its budget, in kilobytes after gzip.
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const BUDGET_KB = { js: 36, css: 4 };
const folder = new URL('../dist/assets/console/', import.meta.url);

let failed = false;
for (const [extension, budget] of Object.entries(BUDGET_KB)) {
  const files = readdirSync(folder).filter((name) => name.endsWith(`.${extension}`));
  const bytes = files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, folder)), { level: 9 }).length, 0);
  const size = bytes / 1024;
  console.log(`${extension}: ${size.toFixed(1)} kB gzip of ${budget} kB`);
  if (files.length === 0 || size > budget) failed = true;
}
const index = readFileSync(new URL('../dist/index.html', import.meta.url), 'utf8');
if (/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/i.test(index)) {
  console.error('index.html holds inline script or style, which the content security policy forbids');
  failed = true;
}
process.exit(failed ? 1 : 0);
