import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Refusal } from '../src/api';
import { ago, channelState, checkWeb, labelled, readForm, readValues, sentences, snippet } from '../src/channels';
import type { Channel, ChannelKind, KindField, Partner } from '../src/protocol';
import { combine, good, percent } from '../src/ratings';
import { detailWords, fieldWords, WORDS } from '../src/words';
import { CHANNEL_WORDS, withDetails, zhHelp } from '../src/words/channels';
import { CONTACT_WORDS } from '../src/words/contacts';

const PARTNER: Partner = { sandbox: true, transport: 'webhook', endpoint: 'none', failures: 0, keys: 0, last_cursor: '0', acked_cursor: '0' };
const channel = (over: Partial<Channel>): Channel =>
  ({ kind: 'telegram', open: true, fault: null, connected_at: '2026-11-28T20:00:00Z', partner: null, ...over }) as Channel;

describe('a channel', () => {
  it('is in the worst state that can be said of it', () => {
    expect(channelState(channel({}))).toBe('live');
    expect(channelState(channel({ connected_at: null }))).toBe('untried');
    expect(channelState(channel({ fault: 'the token is wrong' }))).toBe('fault');
    expect(channelState(channel({ fault: 'the token is wrong', open: false }))).toBe('closed');
    expect(channelState(channel({ kind: 'web', connected_at: null }))).toBe('live');
    expect(channelState(channel({ kind: 'partner', connected_at: null, partner: PARTNER }))).toBe('sandbox');
    expect(channelState(channel({ kind: 'partner', partner: { ...PARTNER, sandbox: false, endpoint: 'active' } }))).toBe('live');
    expect(channelState(channel({ kind: 'partner', partner: { ...PARTNER, endpoint: 'paused' } }))).toBe('fault');
  });

  it('has a fault under the name that people see', () => {
    const kind = { fields: [{ name: 'imap_host', label: 'IMAP server', label_zh: 'IMAP 服务器' }] } as ChannelKind;
    expect(labelled('imap_host: set one', kind, 'en')).toBe('IMAP server: set one');
    expect(labelled('imap_host: set one', kind, 'zh')).toBe('IMAP 服务器: set one');
    expect(labelled('other: set one', kind, 'en')).toBe('other: set one');
    expect(labelled('imap_host: set one', null, 'en')).toBe('imap_host: set one');
  });

  it('was written to some time ago', () => {
    const now = Date.parse('2026-11-28T20:00:00Z');
    const at = (ms: number): string => new Date(now - ms).toISOString();
    expect(ago(at(5000), now, 'en')).toBe('now');
    expect(ago(at(-5000), now, 'en')).toBe('now');
    expect(ago(at(8 * 60_000), now, 'en')).toBe('8 minutes ago');
    expect(ago(at(8 * 60_000), now, 'zh')).toBe('8分钟前');
    expect(ago(at(23.5 * 3_600_000), now, 'en')).toBe('23 hours ago');
    expect(ago(at(3 * 86_400_000), now, 'zh')).toBe('3天前');
    expect(sentences(['一。', '', '二。'], 'zh')).toBe('一。二。');
    expect(sentences(['One.', 'Two.'], 'en')).toBe('One. Two.');
  });

  it('has a line for the pages of the business', () => {
    expect(snippet('https://q.example', 'wk_1')).toBe('<script src="https://q.example/widget.js" data-key="wk_1" async></script>');
  });
});

const field = (name: string, form: KindField['form'], over: Partial<KindField> = {}): KindField =>
  ({ name, label: name, label_zh: name, help: '', secret: false, required: false, form, choices: [], ...over });
const KIND: ChannelKind = {
  kind: 'test', name: 'T', name_zh: 'T', inbound: true,
  fields: [field('token', 'text', { secret: true, required: true }), field('port', 'number'), field('asks', 'bool'), field('sites', 'list'), field('mode', 'choice')],
};

describe('the form of a channel', () => {
  it('becomes settings and secrets, each of its kind, and leaves out what is empty', () => {
    expect(readForm(KIND, { token: ' t ', port: '465', asks: 'false', sites: 'a\n\n b ', mode: 'x' })).toEqual({
      secrets: { token: 't' },
      settings: { port: 465, asks: false, sites: ['a', 'b'], mode: 'x' },
    });
    expect(readForm(KIND, { token: '  ', port: '', sites: '\n' })).toEqual({ secrets: {}, settings: {} });
    expect(readForm(KIND, { port: 'many' }).settings).toEqual({ port: 'many' });
    const key = (text: string): string => `-----BEGIN PUBLIC KEY-----\n${text}\n-----END PUBLIC KEY-----`;
    expect(readForm(KIND, { sites: ` ${key('a\nb')}\n\n${key('c')} ` }).settings).toEqual({ sites: [key('a\nb'), key('c')] });
  });

  it('shows what is set, and no secret', () => {
    const set = { port: 465, asks: true, sites: ['a', 'b'], token: 'leaked' };
    expect(readValues(KIND, set)).toEqual({ token: '', port: '465', asks: 'true', sites: 'a\nb', mode: '' });
    expect(readForm(KIND, readValues(KIND, set)).settings).toEqual({ port: 465, asks: true, sites: ['a', 'b'] });
  });

  it('refuses sites and colours that the server would overlook', () => {
    checkWeb({ origins: ['https://shop.example', 'http://127.0.0.1:8080/'], color: '#0B7468' });
    for (const site of ['shop.example', 'https://shop.example/page', 'https://*.shop.example', 'ftp://shop.example', 'https://', 'javascript:alert(1)']) {
      const refused = (() => {
        try {
          checkWeb({ origins: ['https://fine.example', site], color: 'green' });
        } catch (error) {
          return error as Refusal;
        }
        return null;
      })();
      expect(fieldWords(WORDS.en, refused, '/settings/origins')).toMatch(/has to be a site such as/i);
      expect(fieldWords(WORDS.en, refused, '/settings/color')).toMatch(/has to be a colour/i);
    }
  });
});

function leaves(value: unknown, path: string): string[] {
  if (typeof value !== 'object' || value === null) return [`${path} ${(String(value).match(/\{\w+\}/g) ?? []).sort().join()}`];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${path}.${key}`));
}

describe('the words of channels and contacts', () => {
  it('are complete in both languages, with the same holes', () => {
    expect(leaves(CHANNEL_WORDS.zh, '').sort()).toEqual(leaves(CHANNEL_WORDS.en, '').sort());
    expect(leaves(CONTACT_WORDS.zh, '').sort()).toEqual(leaves(CONTACT_WORDS.en, '').sort());
  });

  it('say in both languages what the server says of a form', () => {
    const zh = withDetails(WORDS.zh, 'zh');
    expect(detailWords(withDetails(WORDS.en, 'en'), 'is needed: Bot token.')).toBe('This is needed.');
    expect(detailWords(zh, 'must not be empty')).toBe('不能为空');
    expect(detailWords(zh, 'is needed: Bot token. Send /newbot to @BotFather.')).toBe('此项必填');
    expect(detailWords(zh, 'has to be a whole number from 1 to 65535')).toBe('请填写 1 到 65535 之间的整数');
    expect(detailWords(zh, 'the platform cannot be reached: timeout')).toBe('无法连接到对方平台：timeout');
  });

  it('explain settings that there are', () => {
    const sources = ['web/widget', 'telegram', 'partner', 'feishu', 'dingtalk', 'wechat/wecom', 'wechat/official', 'matrix', 'email', 'meta'];
    const text = sources.map((name) => readFileSync(`../../crates/qudao-channels/src/${name}.rs`, 'utf8')).join();
    for (const key of Object.keys(zhHelp)) expect(text, key).toContain(`"${key.split('.')[1]}"`);
  });
});

describe('ratings', () => {
  it('are summed', () => {
    const scores = combine([[1, 0, 0, 2, 3], [0, 0, 1, 0, 1], []]);
    expect(scores).toEqual([1, 0, 1, 2, 4]);
    expect(percent(good(scores), 8)).toBe('75 %');
    expect(percent(0, 0)).toBe('–');
  });
});
