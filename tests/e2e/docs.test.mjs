// The API reference is drawn from the platform's own description and from nowhere else.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch } from './browser.mjs';
import { baseUrl } from './platform.mjs';

test('/docs draws every path of /openapi.json without asking a stranger', { skip: process.env.QUDAO_E2E_NO_DOCS && 'the stand-in has no reference' }, async () => {
  const browser = await launch();
  const page = await browser.newPage();
  const complaints = [];
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('request', (request) => {
    if (!request.url().startsWith('data:') && new URL(request.url()).origin !== new URL(baseUrl).origin) complaints.push(request.url());
  });
  await page.goto(`${baseUrl}/docs`);
  await page.locator('.opblock').first().waitFor();
  const { paths } = await (await fetch(`${baseUrl}/openapi.json`)).json();
  const wanted = Object.values(paths).flatMap((item) => Object.keys(item).filter((verb) => /^(get|put|post|patch|delete)$/.test(verb)));
  assert.ok(wanted.length > 0);
  assert.equal(await page.locator('.opblock').count(), wanted.length);
  assert.deepEqual(complaints, []);
  await browser.close();
});
