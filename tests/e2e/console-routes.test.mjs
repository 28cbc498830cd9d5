// A business says in the console which model answers, and looks at what came of it.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch, PATIENCE_MS, PHONE } from './browser.mjs';
import { close, complete, consoleUrl, invite, makeTenant, openConsole } from './people.mjs';
import { admin, baseUrl } from './platform.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const NARROW = { width: 375, height: 812 };
const PHONE_NUMBER = 'My number is 13812345678';

let browser;
let tenant;
/** The owner's browser; each test goes on where the one before ended. */
let mei;
let key;
let route;

before(async () => {
  tenant = await makeTenant('梅家茶铺 Acme Tea');
  await admin('POST', `${tenant.base}/credits`, { amount: '100', note: 'first payment' }, { 'idempotency-key': randomUUID() });
  key = (await admin('POST', `${tenant.base}/api-keys`, { name: 'shop', scopes: ['chat'] })).key;
  browser = await launch();
});
after(() => browser?.close());

const page = () => mei.page;
const open = async (hash) => {
  await mei.page.goto(consoleUrl(hash));
  await mei.page.locator('main h1').waitFor();
};
const here = () => new URL(mei.page.url()).hash;
const rule = (n) => page().locator(`[data-test="rule-${n}"]`);
async function until(what, check) {
  for (const end = Date.now() + PATIENCE_MS; ; ) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
/** A call of the API; its status and who served it. */
async function call(model, content) {
  const response = await fetch(`${baseUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content }] }),
  });
  await response.text();
  return [response.status, response.headers.get('x-qudao-model')];
}
const wrongFields = () => page().locator('.wrong').allInnerTexts();

test('a business that has no route is told what one is, and sees which models there are', async () => {
  const token = await invite(tenant, 'mei@example.com', 'owner');
  mei = await openConsole(browser, `#/invitation/${token}`);
  await mei.accept('Mei');
  await mei.heading('Hello, Mei');
  await mei.tab('Routes');
  await mei.heading('Routes');
  await page().getByText('No route yet. A route says which model answers your customers.').waitFor();
  const echo = page().locator('[data-test="model-echo-fast"]');
  await echo.getByText('answers', { exact: true }).waitFor();
  await echo.getByText('on this machine').waitFor();
  await echo.getByText('0.10 CNY in, 0.10 CNY out per million tokens').waitFor();
  await page().locator('[data-test="model-away"]').getByText('elsewhere').waitFor();
  await mei.screenshot('console-routes-empty-light-en');
});

test('what is missing is said where it is missing, and nothing is made', async () => {
  await page().getByRole('link', { name: 'Make a route' }).click();
  await mei.heading('Make a route');
  await mei.press('Add a rule');
  await rule(1).getByLabel('About (Condition 1)').selectOption({ label: 'balance' });
  await rule(1).getByLabel('Less than').fill('much');
  await page().getByRole('button', { name: 'Make the route' }).click();
  await rule(1).getByText('Has to be a number').waitFor();
  assert.equal(await page().evaluate(() => document.activeElement?.getAttribute('aria-invalid')), 'true', 'the first wrong field has the focus');
  await rule(1).getByLabel('Less than').fill('0.5');
  await page().getByRole('button', { name: 'Make the route' }).click();
  await page().getByText('Choose a model').first().waitFor();
  assert.ok((await wrongFields()).length >= 3, `name, model, and the rule's: ${await wrongFields()}`);
  await mei.screenshot('console-route-wrong-light-en', true);
  assert.deepEqual((await admin('GET', `${tenant.base}/routes`)).data, []);
});

test('a route is made by hand, with rules, an order and a trial', async () => {
  await mei.field('Name').first().fill('Support');
  await mei.field('Model 1').first().selectOption('away');
  await page().getByRole('button', { name: 'Add a model', exact: true }).first().click();
  await mei.field('Model 2').first().selectOption('echo-fast');

  await rule(1).getByLabel('Name', { exact: true }).fill('personal data stays here');
  await rule(1).getByLabel('About (Condition 1)').selectOption({ label: 'personal data' });
  await rule(1).getByLabel('any', { exact: true }).check();
  await rule(1).getByLabel('Words must not leave this machine').check();
  const offered = await rule(1).getByLabel('Model 1', { exact: true }).locator('option').allInnerTexts();
  assert.ok(!offered.some((name) => name.includes('elsewhere')) && offered.includes('echo-cut'), `${offered}`);
  await rule(1).getByLabel('Model 1', { exact: true }).selectOption('echo-cut');

  await page().getByRole('button', { name: 'Add a rule' }).click();
  await rule(2).getByLabel('Name', { exact: true }).fill('long');
  await rule(2).getByLabel('About (Condition 1)').selectOption({ label: 'length in characters' });
  await rule(2).getByLabel('At least').fill('200');
  await rule(2).getByLabel('Model 1', { exact: true }).selectOption('echo-fast');
  await rule(2).getByLabel('Weight').fill('3');
  await rule(2).getByRole('button', { name: 'Add a model' }).click();
  await rule(2).getByLabel('Model 2', { exact: true }).selectOption('echo-cut');
  await rule(2).getByLabel('Weight').last().fill('1');
  await rule(2).getByRole('button', { name: 'Up: Rule 2' }).click();
  assert.equal(await rule(1).getByLabel('Name', { exact: true }).inputValue(), 'long', 'it went up, with all that was written in it');
  await rule(1).getByRole('button', { name: 'Down: Rule 1' }).click();

  await page().getByRole('switch', { name: 'Try another model' }).check();
  await mei.field('Model').selectOption('echo-cut');
  await mei.field('Of a hundred conversations').fill('100');
  await mei.field('Compare answers by').selectOption({ label: 'their letters' });
  await mei.screenshot('console-route-form-light-en', true);
  await page().getByRole('button', { name: 'Make the route' }).click();
  await mei.heading('Support');
  route = here().split('/')[2];
  const made = await admin('GET', `${tenant.base}/routes/${route}`);
  assert.deepEqual(made.models, ['away', 'echo-fast']);
  assert.deepEqual(made.rules, [
    {
      name: 'personal data stays here', when: [{ signal: 'personal_data', any_of: ['any'] }],
      targets: [{ model: 'echo-cut' }], local_only: true, canary: false,
    },
    {
      name: 'long', when: [{ signal: 'characters', at_least: 200 }],
      targets: [{ model: 'echo-fast', weight: 3 }, { model: 'echo-cut', weight: 1 }], local_only: false, canary: false,
    },
  ]);
  assert.equal(made.canary.mode, 'shadow');
  await rule('personal data stays here').getByText('personal data: any').waitFor();
  await rule('long').getByText('75%').waitFor();
  await page().getByText('Nobody asked in this time.').waitFor();
});

test('traffic, the trial and what failed show by themselves', async () => {
  // A model that nobody reaches, until it is left alone.
  for (let n = 0; n < 12; n += 1) assert.deepEqual(await call('Support', 'Hello'), [200, 'echo-fast']);
  assert.deepEqual(await call('Support', PHONE_NUMBER), [200, 'echo-cut']);
  assert.equal((await call('away', 'Hello'))[0], 503);
  await until('all decisions are written', async () => (await admin('GET', `${tenant.base}/routes/${route}/traffic`)).decisions === 13);
  await page().locator('[data-test="model-away"]').getByText(/left alone, \d+ s to go/).waitFor();
  const share = page().locator('[data-test="share-echo-fast"]');
  await share.getByText('12 of them in another’s place').waitFor();
  await share.getByText('92.3%').waitFor();
  await page().getByText('away: left alone, as it failed').waitFor();
  await page().getByText('away: its provider is away').waitFor();
  await page().locator('[data-test=trial]').getByText('Agreement: 100%').waitFor();
  await mei.screenshot('console-route-light-en', true);
});

test('decisions tell why, are found by how they ended, and come in pages', async () => {
  await page().reload();
  const decisions = page().locator('[data-test=decision]');
  await decisions.first().waitFor();
  assert.equal(await decisions.count(), 13);
  await mei.field('Answered by').selectOption('echo-cut');
  await until('one is left', async () => (await decisions.count()) === 1);
  await decisions.getByText('personal data stays here').first().waitFor();
  await decisions.getByText('on this machine only').waitFor();
  await decisions.locator('summary').click();
  await decisions.getByText('telephone number').waitFor();
  await decisions.getByText(/^echo-cut: answered/).waitFor();
  assert.ok(!(await page().content()).includes('138123'), 'no word of a message is on the page');
  await mei.screenshot('console-decision-light-en', true);
  await mei.field('How').selectOption({ label: 'by nobody' });
  await page().getByText('Nothing fits.').waitFor();
  await mei.field('Answered by').selectOption({ label: 'all' });
  await mei.field('How').selectOption({ label: 'in another’s place' });
  await until('twelve fit', async () => (await decisions.count()) === 12);
  for (let n = 0; n < 10; n += 1) await call('Support', `again ${n}`);
  await until('they are written', async () => (await admin('GET', `${tenant.base}/routes/${route}/traffic`)).decisions === 23);
  await mei.press('Look again');
  await until('a page is full', async () => (await decisions.count()) === 20);
  await mei.press('Show more');
  await until('the rest came', async () => (await decisions.count()) === 22);
});

test('a route is changed by keyboard alone, and only what was touched is sent', async () => {
  await page().getByRole('link', { name: 'Change', exact: true }).focus();
  await page().keyboard.press('Enter');
  await mei.heading('Change Support');
  let sent = null;
  page().on('request', (request) => {
    if (request.method() === 'PATCH') sent = request.postDataJSON();
  });
  await page().getByRole('button', { name: 'Up: Model 2' }).first().focus();
  await page().keyboard.press('Enter');
  assert.equal(await mei.field('Model 1').first().inputValue(), 'echo-fast');
  await page().getByRole('button', { name: 'Save' }).focus();
  const saved = page().waitForResponse((response) => response.request().method() === 'PATCH');
  await page().keyboard.press('Enter');
  assert.equal((await saved).status(), 200);
  await mei.heading('Support');
  assert.deepEqual(sent, { models: ['echo-fast', 'away'] });
  assert.deepEqual((await admin('GET', `${tenant.base}/routes/${route}`)).models, ['echo-fast', 'away']);
  await page().locator('.chips').last().getByText('first').waitFor();
});

test('a trial is ended when somebody says so twice', async () => {
  await mei.press('End the trial');
  await mei.dialog().getByText('echo-cut is no longer tried').waitFor();
  await mei.dialog().getByRole('button', { name: 'End the trial' }).click();
  await page().locator('[data-test=trial]').waitFor({ state: 'detached' });
  assert.equal((await admin('GET', `${tenant.base}/routes/${route}`)).canary, null);
});

test('who may only look sees how it is, and cannot change it', async () => {
  const lin = await openConsole(browser, `#/invitation/${await invite(tenant, 'lin@example.com', 'viewer')}`, { viewport: PHONE, locale: 'zh-CN', colorScheme: 'dark' });
  await lin.field('您的称呼').fill('林');
  await lin.field('密码').fill('门前有两棵树一棵是枣树');
  await lin.press('加入');
  await lin.heading('林，您好');
  await lin.page.goto(consoleUrl(`#/routes/${route}/edit`));
  await lin.heading('Support');
  assert.equal(await lin.page.getByRole('link', { name: '修改' }).count(), 0);
  assert.equal(await lin.page.locator('[data-test=decision]').count(), 0, 'decisions are for those who may read conversations');
  await lin.page.goto(consoleUrl('#/routes/new'));
  await lin.heading('路由');
  await lin.page.locator('[data-test="route-Support"]').waitFor();
  await close(lin);
});

test('axe finds nothing, and nothing is too wide, in both languages and colours', async () => {
  const found = async (where) => {
    await complete(page());
    // The policy of the page forbids inline script, so axe comes in through the debugger.
    await page().evaluate(axe);
    const { violations } = await page().evaluate(() =>
      globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
    );
    const wrong = violations.map(({ id, nodes }) => `${where} ${id}: ${nodes.map((node) => node.html.slice(0, 140)).join(' | ')}`);
    assert.deepEqual(wrong, []);
  };
  const visit = async (size, colours, names) => {
    for (const [name, hash] of [['list', '#/routes'], ['route', `#/routes/${route}`], ['edit', `#/routes/${route}/edit`], ['new', '#/routes/new']]) {
      await open(hash);
      await page().locator('.row, .card').first().waitFor();
      if (name === 'new') {
        await page().getByRole('button', { name: names.rule }).click();
        await page().getByRole('switch', { name: names.trial }).check();
      }
      if (name === 'route') await page().locator('[data-test=decision] summary').first().click();
      await found(`${name} ${colours}`);
      await mei.screenshot(`console-routes-${name}-${colours}`, true);
      const wider = await page().evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wider <= 0, `${name} is ${wider} px too wide at ${size.width}`);
    }
  };
  await visit({ width: 1200 }, 'light-en', { rule: 'Add a rule', trial: 'Try another model' });
  await page().locator('[data-test=language]').click();
  await page().locator('[data-test=theme]').click();
  await page().setViewportSize(NARROW);
  await visit(NARROW, 'dark-zh-phone', { rule: '添加规则', trial: '试用其他模型' });
  await close(mei);
});
