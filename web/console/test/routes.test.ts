import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Refusal } from '../src/api';
import type { Decision, Route } from '../src/protocol';
import { bodyOf, changesOf, CHOICES, draftOf, modelsOf, moved, newCondition, newRoute, newTarget, percentOf, shares, SIGNALS, signalsOf } from '../src/routes';
import { detailWords, WORDS } from '../src/words';
import { ROUTE_WORDS, withRouteDetails } from '../src/words/routes';

const openapi = JSON.parse(readFileSync('../../docs/openapi.json', 'utf8'));

/** One that uses all there is. */
const route: Route = {
  id: 'rte_1',
  name: 'support',
  models: ['cheap', 'large'],
  sentiment_model: 'moods',
  rules: [
    {
      name: 'private',
      when: [
        { signal: 'personal_data', any_of: ['any'] },
        { signal: 'sentiment', any_of: ['negative', 'angry'], at_least: 0.8 },
        { signal: 'language', any_of: ['zh', 'en'] },
        { signal: 'characters', at_least: 3, at_most: 900 },
        { signal: 'prompt_tokens', at_most: 4000 },
        { signal: 'modality', any_of: ['image', 'audio'] },
        { signal: 'balance', below: '0.5' },
        { signal: 'spent_this_month', at_least: '900.000001' },
        { signal: 'health', model: 'large', any_of: ['open', 'half_open'] },
      ],
      targets: [{ model: 'local', weight: 3 }, { model: 'other', weight: 1 }, { model: 'last' }],
      local_only: true,
      canary: false,
    },
  ],
  canary: {
    model: 'new',
    mode: 'shadow',
    percent: 10,
    paid_by: 'operator',
    agreement: { by: 'embedding', model: 'vectors' },
    rollback: { window_minutes: 60, min_calls: 20, error_rate_above: 0.05, latency_ratio_above: 2, agreement_below: 0.85 },
    state: 'rolled_back',
  },
  created_at: '2026-11-29T00:00:00Z',
};

describe('the form of a route', () => {
  it('says again what the server said, but for what the server adds to a trial', () => {
    const { id: _, created_at: __, canary, ...rest } = route;
    const { paid_by: ___, state: ____, ...trial } = canary!;
    expect(bodyOf(draftOf(route))).toEqual({ ...rest, canary: trial });
  });

  it('sends what was touched and nothing else', () => {
    const before = draftOf(route);
    expect(changesOf(before, before)).toEqual({});
    expect(changesOf(before, { ...before, name: 'Main' })).toEqual({ name: 'Main' });
    expect(changesOf(before, { ...before, canary: null, sentiment: '' })).toEqual({ canary: null, sentiment_model: null });
    expect(changesOf(before, { ...before, models: [newTarget('large')] })).toEqual({ models: ['large'] });
  });

  it('names what is no number where it stands', () => {
    const draft = draftOf(route);
    const [rule] = draft.rules;
    rule!.when[3]!.low = 'many';
    rule!.when[6]!.low = '';
    rule!.targets[0]!.weight = '1e3';
    draft.canary!.percent = '';
    draft.canary!.errors = '-1';
    try {
      bodyOf(draft);
      expect.unreachable();
    } catch (error) {
      const pointers = (error as Refusal).fields.map(({ pointer }) => pointer);
      expect(pointers).toEqual(['/rules/0/when/3/at_least', '/rules/0/when/6/below', '/rules/0/targets/0/weight', '/canary/percent', '/canary/rollback/error_rate_above']);
    }
  });

  it('reads lists as people write them, and percent as percent', () => {
    const draft = newRoute();
    const condition = { ...newCondition('language'), listed: ' ZH，en、de ' };
    const mood = { ...newCondition('sentiment'), listed: 'negative', low: '82,5' };
    draft.rules = [{ key: 1, name: 'r', when: [condition, mood], targets: [], local: false, trial: true }];
    expect(bodyOf(draft).rules[0]?.when).toEqual([
      { signal: 'language', any_of: ['zh', 'en', 'de'] },
      { signal: 'sentiment', any_of: ['negative'], at_least: 0.825 },
    ]);
  });

  it('compares nothing where people get the answers', () => {
    const draft = draftOf(route);
    draft.canary!.mode = 'live';
    expect(bodyOf(draft).canary).toMatchObject({ mode: 'live', rollback: { agreement_below: 0 } });
    expect(bodyOf(draft).canary).not.toHaveProperty('agreement');
  });

  it('knows every signal and every value that the server knows', () => {
    const variants = openapi.components.schemas.RouteCondition.oneOf as { properties: { signal: { enum: string[] } } }[];
    expect(variants.map(({ properties }) => properties.signal.enum[0]).sort()).toEqual([...SIGNALS].sort());
    const { PersonalKind, ModalityKind, HealthState } = openapi.components.schemas;
    expect([CHOICES.personal_data, CHOICES.modality, CHOICES.health]).toEqual([PersonalKind.enum, ModalityKind.enum, HealthState.enum]);
  });
});

describe('lists', () => {
  it('are sorted by one place at a time', () => {
    expect(moved(['a', 'b', 'c'], 1, -1)).toEqual(['b', 'a', 'c']);
    expect(moved(['a', 'b', 'c'], 1, 1)).toEqual(['a', 'c', 'b']);
  });

  it('of targets tell who is asked first how often', () => {
    expect(shares([{}, {}])).toEqual([1, null]);
    expect(shares([{ weight: 3 }, {}, { weight: 1 }])).toEqual([0.75, null, 0.25]);
    expect(percentOf(1 / 3, 'en')).toBe('33.3%');
  });

  it('of models hold each once', () => {
    expect(modelsOf(route)).toEqual(['cheap', 'large', 'local', 'other', 'last', 'moods', 'new', 'vectors']);
  });

  it('of signals are what a decision found', () => {
    const detail = { signals: { characters: 12, sentiment: { unknown: 'remote' } } };
    expect(signalsOf({ detail } as unknown as Decision)).toEqual([['characters', 12], ['sentiment', { unknown: 'remote' }]]);
    expect(signalsOf({ detail: {} } as Decision)).toEqual([]);
  });
});

describe('words of routes', () => {
  const leaves = (value: unknown, path: string): string[] =>
    typeof value === 'object' && value !== null ? Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${path}.${key}`)) : [path];

  it('are complete in both languages, with the same holes', () => {
    const { en, zh } = ROUTE_WORDS;
    expect(leaves(zh, '').sort()).toEqual(leaves(en, '').sort());
    const holes = (text: unknown): string[] => (String(text).match(/\{\w+\}/g) ?? []).sort();
    const at = (words: unknown, path: string): unknown => path.split('.').slice(1).reduce((part, key) => (part as Record<string, unknown>)[key], words);
    for (const path of leaves(en, '')) expect(holes(at(zh, path)), path).toEqual(holes(at(en, path)));
  });

  it('name every reason that the server has for passing over a model', () => {
    const host = readFileSync('../../crates/qudao-plugin-host/src/event.rs', 'utf8');
    const classes = /pub const fn class[\s\S]*?\n {4}\}\n/.exec(host)?.[0] ?? '';
    const words = [...classes.matchAll(/=> "([a-z_]+)"/g)].map((match) => match[1]!);
    const core = ['core/src/api/route.rs', 'core/src/turn/generate.rs'].map((file) => readFileSync(`../../crates/qudao-${file}`, 'utf8')).join();
    words.push(...[...core.matchAll(/\(\("([a-z_]+)", |passed_over\([^,]+, "([a-z_]+)"\)/g)].map((match) => (match[1] ?? match[2])!));
    expect(words.length).toBeGreaterThan(20);
    for (const word of words) expect(ROUTE_WORDS.en.why[word], word).toBeDefined();
  });

  it('put into Chinese what the server says of a rule', () => {
    const zh = withRouteDetails(WORDS.zh, 'zh');
    const rules = readFileSync('../../crates/qudao-server/src/admin/routes/rules.rs', 'utf8');
    expect(rules).toContain('sends words elsewhere, and the rule is for local models only');
    expect(detailWords(zh, 'sends words elsewhere, and the rule is for local models only')).toMatch(/本机/);
    expect(detailWords(zh, 'makes vectors of texts, and has to be one that chats')).toBe('此模型的用途不同');
    expect(detailWords(zh, 'has to be from 1 to 1000')).toBe('必须在 1 到 1000 之间');
    expect(detailWords(withRouteDetails(WORDS.en, 'en'), 'give at_least, at_most, or both')).toBe('Give a least, a most, or both');
  });
});
