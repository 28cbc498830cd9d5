// The API reference is drawn from the platform's own description and from nowhere else.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch } from './browser.mjs';
import { baseUrl, openEchoChat, operatorKey } from './platform.mjs';
import { Stranger, layCanaries } from './stranger.mjs';

const skip = process.env.QUDAO_E2E_NO_DOCS && 'the stand-in has no reference';
const HOSTILE = '<img src=x onerror=window.pwned=1><script>window.pwned=1</script>';

let browser;
let stranger;
before(async () => {
  stranger = await Stranger.listen();
  browser = await launch(stranger.browserArguments);
});
after(async () => {
  await browser?.close();
  stranger?.close();
});

/** A page that takes note of scripts that ran and of requests to others. */
async function watched(prepare = async () => {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const complaints = [];
  const errors = [];
  page.on('dialog', (dialog) => void dialog.dismiss().then(() => complaints.push('a dialog')));
  page.on('console', (message) => {
    if (message.type() !== 'error') return;
    errors.push(message.text());
    if (/canary: (a script|\w+ was called|a frame)/.test(message.text())) complaints.push(message.text());
  });
  await page.addInitScript(layCanaries);
  await prepare(page);
  return { page, context, complaints, errors };
}

test('/docs draws every path of /openapi.json without asking a stranger', { skip }, async () => {
  const { page, context, errors } = await watched();
  const foreign = [];
  page.on('request', (request) => {
    if (!request.url().startsWith('data:') && new URL(request.url()).origin !== new URL(baseUrl).origin) foreign.push(request.url());
  });
  await page.goto(`${baseUrl}/docs`);
  await page.locator('.opblock').first().waitFor();
  const { paths, webhooks } = await (await fetch(`${baseUrl}/openapi.json`)).json();
  const wanted = [...Object.values(paths), ...Object.values(webhooks)].flatMap((item) => Object.keys(item).filter((verb) => /^(get|put|post|patch|delete)$/.test(verb)));
  assert.ok(wanted.length > 0);
  assert.equal(await page.locator('.opblock').count(), wanted.length);
  assert.deepEqual([...errors, ...foreign], []);
  await context.close();
});

test('/docs takes no description and no settings from its address', { skip }, async () => {
  for (const address of [
    `?url=${stranger.origin}/evil.json&configUrl=${stranger.origin}/evil.yaml&urls.primaryName=x&validatorUrl=${stranger.origin}/v#/${encodeURIComponent(HOSTILE)}`,
    `?configUrl=data:text/yaml;base64,dXJsOiBodHRwczovL2V2aWwuZXhhbXBsZS8=&oauth2RedirectUrl=javascript:window.pwned=1#/"><img src=x onerror=window.pwned=1>/${encodeURIComponent(HOSTILE)}`,
  ]) {
    const { page, context, complaints, errors } = await watched();
    await page.goto(`${baseUrl}/docs${address}`);
    await page.locator('.opblock').first().waitFor();
    assert.match(await page.locator('.info .title').innerText(), /Qudao/);
    assert.deepEqual([...complaints, ...errors], [], address);
    await context.close();
  }
  assert.equal(stranger.connections, 0);
});

test('a description full of markup runs nothing and asks nobody', { skip }, async () => {
  const description = await (await fetch(`${baseUrl}/openapi.json`)).json();
  const words = stranger.meant(`${HOSTILE} ![i]({{EVIL}}/i.gif) [l](javascript:window.pwned=1) <iframe srcdoc="<script>parent.pwned=1</script>"></iframe><style>@import "{{EVIL}}/s.css"</style><form action={{EVIL}}><button>x</button></form><svg onload=window.pwned=1>`);
  Object.assign(description.info, { title: HOSTILE, description: words, termsOfService: 'javascript:window.pwned=1', contact: { name: HOSTILE, url: 'javascript:window.pwned=1' } });
  description.externalDocs = { url: 'javascript:window.pwned=1', description: words };
  for (const tag of description.tags) tag.description = words;
  for (const item of Object.values(description.paths)) {
    for (const operation of Object.values(item)) {
      Object.assign(operation, { summary: HOSTILE, description: words });
      for (const parameter of operation.parameters ?? []) Object.assign(parameter, { description: words, example: HOSTILE });
    }
  }
  for (const schema of Object.values(description.components.schemas)) Object.assign(schema, { title: HOSTILE, description: words });
  const { page, context, complaints } = await watched((page) => page.route('**/openapi.json', (route) => route.fulfill({ json: description })));
  await page.goto(`${baseUrl}/docs`);
  await page.locator('.opblock').first().waitFor();
  for (const block of (await page.locator('.opblock-summary-control').all()).slice(0, 6)) await block.click();
  await page.waitForTimeout(500);
  // Links in it may stand, but not as scripts.
  for (const link of await page.locator('a[href^="javascript:" i]').all()) await link.dispatchEvent('click');
  await page.waitForTimeout(200);
  assert.deepEqual(complaints, []);
  assert.equal(await page.locator('script:not([src]), #reference iframe, #reference [onerror], #reference [onload]').count(), 0);
  assert.equal(stranger.connections, 0);
  await context.close();
});

test('hostile names in an answer are shown as text', { skip }, async () => {
  const name = '"><img src=x onerror=window.pwned=1>';
  await openEchoChat({ names: { tenant: name, route: name, assistant: name, channel: name } });
  const { page, context, complaints } = await watched((page) =>
    page.route('**/v1/tenants?*', (route) => route.continue({ headers: { ...route.request().headers(), authorization: `Bearer ${operatorKey}` } })),
  );
  await page.goto(`${baseUrl}/docs#/Tenants/get_tenants`);
  const block = page.locator('#operations-Tenants-get_tenants');
  await block.locator('.opblock-summary-control').waitFor();
  if ((await block.locator('.execute').count()) === 0) await block.locator('.opblock-summary-control').click();
  await block.locator('input[placeholder*=limit]').fill('200');
  await block.locator('.execute').click();
  await block.locator('.live-responses-table').waitFor();
  await page.getByText('onerror=window.pwned=1').first().waitFor();
  assert.equal(await page.locator('#reference img[src=x]').count(), 0);
  assert.deepEqual(complaints, []);
  assert.equal(stranger.connections, 0);
  await context.close();
});
