// Lays out the API reference in dist/: the page, and the renderer from the npm package, unchanged
// but for the comment that points to a source map which is not shipped. Names carry a hash of the
// content, so that every asset may be cached for ever.
import { createHash } from 'node:crypto';
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const vendor = `${here}node_modules/swagger-ui-dist/`;
const assets = `${here}dist/assets/docs/`;
const sources = {
  'docs.js': `${here}docs.js`,
  'docs.css': `${here}docs.css`,
  'mark.svg': `${here}../chat/src/mark.svg`,
  'swagger-ui-bundle.js': `${vendor}swagger-ui-bundle.js`,
  'swagger-ui.css': `${vendor}swagger-ui.css`,
};

await rm(`${here}dist`, { recursive: true, force: true });
await mkdir(assets, { recursive: true });
let page = await readFile(`${here}index.html`, 'utf8');
for (const [name, source] of Object.entries(sources)) {
  const text = (await readFile(source, 'utf8')).replace(/\n(\/\/|\/\*)# sourceMappingURL=.*$/m, '\n');
  const hash = createHash('sha256').update(text).digest('base64url').slice(0, 8);
  const extension = extname(name);
  const hashed = `${name.slice(0, -extension.length)}-${hash}${extension}`;
  await writeFile(assets + hashed, text);
  page = page.replaceAll(`/assets/docs/${name}"`, `/assets/docs/${hashed}"`);
}
await writeFile(`${here}dist/index.html`, page);
for (const name of ['LICENSE', 'NOTICE']) await cp(vendor + name, `${assets}swagger-ui.${name}.txt`);
