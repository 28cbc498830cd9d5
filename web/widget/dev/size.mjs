// Fails when the widget outgrows its budget, in kilobytes after gzip, or needs more than one file.
// size.mjs <budget>
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const budget = Number(process.argv[2]);
const files = readdirSync('dist');
const script = readFileSync('dist/widget.js');
const size = gzipSync(script, { level: 9 }).length / 1024;
console.log(`widget.js: ${size.toFixed(1)} kB gzip of ${budget} kB`);
// A page's policy allows no code made of text. (Preact can write markup when it is asked to; it is not.)
const unsafe = /\beval\(|new Function\(|document\.write\(|insertAdjacentHTML|dangerouslySetInnerHTML:/.exec(script.toString());
if (unsafe) console.error(`widget.js holds ${unsafe[0]}, which policies of pages forbid`);
if (files.length !== 1) console.error(`dist holds more than widget.js: ${files.join(', ')}`);
process.exit(size <= budget && !unsafe && files.length === 1 ? 0 : 1);
