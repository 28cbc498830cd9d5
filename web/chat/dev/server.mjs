// `npm run dev`: the page with hot reload in front of the stand-in server.
// `node dev/server.mjs --built` serves dist/ instead, under the policy that the real server sends.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { builtPage, startFake } from './fake.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const port = Number(process.env.PORT ?? 8090);

async function livePage() {
  const { createServer } = await import('vite');
  const vite = await createServer({ root, appType: 'custom', server: { middlewareMode: true } });
  return (request, response) => {
    // Hot reload needs inline script, so the strict policy holds for the built page only.
    response.removeHeader('content-security-policy');
    vite.middlewares(request, response, async () => {
      const html = await vite.transformIndexHtml(request.url, await readFile(`${root}index.html`, 'utf8'));
      response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(html);
    });
  };
}

const page = process.argv.includes('--built') ? builtPage(`${root}dist`) : await livePage();
await startFake({ port, page });
console.log(`chat page: http://127.0.0.1:${port}/chat/wk_demo (also wk_echo, wk_empty, wk_busy)`);
