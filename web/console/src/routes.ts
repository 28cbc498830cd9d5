/** What a form about a route means, and what is told of one. */
import { Refusal, type WrongField } from './api';
import type { Canary, Condition, Decision, Route, Rule } from './protocol';

export const SIGNALS = ['sentiment', 'language', 'personal_data', 'characters', 'prompt_tokens', 'modality', 'balance', 'spent_this_month', 'health'] as const;
export type Signal = (typeof SIGNALS)[number];

/** What can be ticked of a signal. */
export const CHOICES: Partial<Record<Signal, readonly string[]>> = {
  personal_data: ['any', 'email', 'phone', 'card', 'national_id'],
  modality: ['text', 'image', 'audio', 'video', 'file'],
  health: ['closed', 'half_open', 'open'],
};

/** A model in a list; `key` stays with it while the list is sorted. */
export interface TargetDraft {
  key: number;
  model: string;
  weight: string;
}

/** A condition: each signal uses some of the fields. */
export interface ConditionDraft {
  key: number;
  signal: Signal;
  ticked: string[];
  listed: string;
  low: string;
  high: string;
  model: string;
}

export interface RuleDraft {
  key: number;
  name: string;
  when: ConditionDraft[];
  targets: TargetDraft[];
  local: boolean;
  trial: boolean;
}

export interface CanaryDraft {
  model: string;
  mode: string;
  percent: string;
  by: string;
  judge: string;
  minutes: string;
  calls: string;
  errors: string;
  latency: string;
  agreement: string;
}

export interface RouteDraft {
  name: string;
  models: TargetDraft[];
  sentiment: string;
  rules: RuleDraft[];
  canary: CanaryDraft | null;
}

let keys = 0;
export const newKey = (): number => (keys += 1);
export const newTarget = (model = '', weight = ''): TargetDraft => ({ key: newKey(), model, weight });
export const newCondition = (signal: Signal = 'personal_data'): ConditionDraft => ({ key: newKey(), signal, ticked: [], listed: '', low: '', high: '', model: '' });
export const newRule = (): RuleDraft => ({ key: newKey(), name: '', when: [newCondition()], targets: [newTarget()], local: false, trial: false });
export const newCanary = (): CanaryDraft => ({ model: '', mode: 'shadow', percent: '10', by: 'text', judge: '', minutes: '60', calls: '20', errors: '5', latency: '2', agreement: '0' });
export const newRoute = (): RouteDraft => ({ name: '', models: [newTarget()], sentiment: '', rules: [], canary: null });

/** As people write it: no more digits than it has. */
const text = (value: number | string | undefined): string => (value === undefined ? '' : String(value));
const hundredths = (value: number | undefined): string => (value === undefined ? '' : String(Math.round(value * 1e6) / 1e4));

export function draftOf(route: Route): RouteDraft {
  return {
    name: route.name,
    models: route.models.map((model) => newTarget(model)),
    sentiment: route.sentiment_model ?? '',
    rules: route.rules.map((rule) => ({
      key: newKey(),
      name: rule.name,
      when: rule.when.map(conditionDraft),
      targets: rule.targets.map(({ model, weight }) => newTarget(model, text(weight))),
      local: rule.local_only,
      trial: rule.canary,
    })),
    canary: route.canary && canaryDraft(route.canary),
  };
}

function conditionDraft(condition: Condition): ConditionDraft {
  const { signal, any_of: values = [], at_least: low, at_most: high, below, model = '' } = condition;
  const ticks = CHOICES[signal] !== undefined;
  return {
    key: newKey(),
    signal,
    ticked: ticks ? values : [],
    listed: ticks ? '' : values.join(', '),
    low: signal === 'sentiment' ? hundredths(low as number | undefined) : text(below ?? low),
    high: text(high),
    model,
  };
}

function canaryDraft({ model, mode, percent, agreement, rollback }: Canary): CanaryDraft {
  return {
    model,
    mode,
    percent: text(percent),
    by: agreement?.by ?? '',
    judge: agreement?.model ?? '',
    minutes: text(rollback.window_minutes),
    calls: text(rollback.min_calls),
    errors: hundredths(rollback.error_rate_above),
    latency: text(rollback.latency_ratio_above),
    agreement: hundredths(rollback.agreement_below),
  };
}

/** What is sent of a route. */
export interface RouteBody {
  name: string;
  models: string[];
  rules: Rule[];
  sentiment_model: string | null;
  canary: Omit<Canary, 'paid_by' | 'state'> | null;
}

/** The body of a request; throws a `Refusal` that names what is no number. */
export function bodyOf(draft: RouteDraft): RouteBody {
  const wrong: WrongField[] = [];
  const number = (written: string, pointer: string): number | undefined => {
    const trimmed = written.trim().replace(',', '.');
    if (trimmed === '') return undefined;
    if (/^\d+(\.\d+)?$/.test(trimmed)) return Number(trimmed);
    wrong.push({ pointer, detail: 'has to be a number' });
    return undefined;
  };
  const whole = (written: string, pointer: string): number => {
    const found = number(written, pointer);
    if (found === undefined && written.trim() === '') wrong.push({ pointer, detail: 'has to be a number' });
    return found ?? 0;
  };
  const percent = (written: string, pointer: string): number | undefined => {
    const found = number(written, pointer);
    return found === undefined ? undefined : Math.round(found * 1e4) / 1e6;
  };
  const body = {
    name: draft.name,
    models: draft.models.map(({ model }) => model),
    rules: draft.rules.map((rule, at) => ({
      name: rule.name,
      when: rule.when.map((condition, index) => conditionOf(condition, `/rules/${at}/when/${index}`, number, percent)),
      targets: rule.targets.map(({ model, weight }, index) => ({ model, ...given('weight', number(weight, `/rules/${at}/targets/${index}/weight`)) })),
      local_only: rule.local,
      canary: rule.trial,
    })),
    sentiment_model: draft.sentiment === '' ? null : draft.sentiment,
    canary: draft.canary && canaryOf(draft.canary, whole),
  };
  if (wrong.length > 0) throw new Refusal(422, 'validation_failed', '', wrong);
  return body;
}

type ReadNumber = (written: string, pointer: string) => number | undefined;

function given<K extends string, T>(key: K, value: T | undefined): { [key in K]?: T } {
  return value === undefined ? {} : ({ [key]: value } as { [key in K]?: T });
}

function conditionOf({ signal, ticked, listed, low, high, model }: ConditionDraft, at: string, number: ReadNumber, percent: ReadNumber): Condition {
  const values = listed.split(/[,，、;\s]+/).filter((value) => value !== '');
  switch (signal) {
    case 'sentiment':
      return { signal, any_of: values, ...given('at_least', percent(low, `${at}/at_least`)) };
    case 'language':
      return { signal, any_of: values.map((code) => code.toLowerCase()) };
    case 'characters':
    case 'prompt_tokens':
      return { signal, ...given('at_least', number(low, `${at}/at_least`)), ...given('at_most', number(high, `${at}/at_most`)) };
    case 'balance':
      return { signal, below: amount(low, `${at}/below`, number) };
    case 'spent_this_month':
      return { signal, at_least: amount(low, `${at}/at_least`, number) };
    case 'health':
      return { signal, model, any_of: ticked };
    case 'personal_data':
    case 'modality':
      return { signal, any_of: ticked };
  }
}

/** Money stays as it was written: it never passes a float. */
function amount(written: string, pointer: string, number: ReadNumber): string {
  const trimmed = written.trim() === '' ? '?' : written.trim().replace(',', '.');
  number(trimmed, pointer);
  return trimmed;
}

function canaryOf(draft: CanaryDraft, whole: (written: string, pointer: string) => number): RouteBody['canary'] {
  const at = (field: string): string => `/canary/rollback/${field}`;
  const share = (written: string, field: string): number => Math.round(whole(written, at(field)) * 1e4) / 1e6;
  const by = draft.mode === 'shadow' ? draft.by : '';
  return {
    model: draft.model,
    mode: draft.mode as Canary['mode'],
    percent: whole(draft.percent, '/canary/percent'),
    ...(by === 'text' && { agreement: { by } }),
    ...((by === 'embedding' || by === 'label') && { agreement: { by, model: draft.judge } }),
    rollback: {
      window_minutes: whole(draft.minutes, at('window_minutes')),
      min_calls: whole(draft.calls, at('min_calls')),
      error_rate_above: share(draft.errors, 'error_rate_above'),
      latency_ratio_above: whole(draft.latency, at('latency_ratio_above')),
      agreement_below: by === '' ? 0 : share(draft.agreement, 'agreement_below'),
    },
  };
}

/** What of a route is sent when its form is: what nobody touched stays as it is. */
export function changesOf(before: RouteDraft, after: RouteDraft): Partial<RouteBody> {
  const body = bodyOf(after);
  const same = (part: keyof RouteDraft): boolean => JSON.stringify(before[part]) === JSON.stringify(after[part]);
  return {
    ...(!same('name') && { name: body.name }),
    ...(!same('models') && { models: body.models }),
    ...(!same('rules') && { rules: body.rules }),
    ...(!same('sentiment') && { sentiment_model: body.sentiment_model }),
    ...(!same('canary') && { canary: body.canary }),
  };
}

/** A list with one of its items a place further up or down. */
export function moved<T>(list: readonly T[], at: number, by: -1 | 1): T[] {
  const next = [...list];
  const [item] = next.splice(at, 1);
  if (item !== undefined) next.splice(at + by, 0, item);
  return next;
}

/** How much of the traffic each target gets first; `null` for those that are only asked after others. */
export function shares(targets: readonly { weight?: number }[]): (number | null)[] {
  const sum = targets.reduce((all, { weight }) => all + (weight ?? 0), 0);
  return targets.map(({ weight }, at) => (sum === 0 ? (at === 0 ? 1 : null) : weight === undefined ? null : weight / sum));
}

export function percentOf(share: number, language: string): string {
  return new Intl.NumberFormat(language === 'zh' ? 'zh-CN' : 'en', { style: 'percent', maximumFractionDigits: 1 }).format(share);
}

/** Every model that a route names, in order and once. */
export function modelsOf(route: Route): string[] {
  const { canary, sentiment_model: sentiment } = route;
  const named = [...route.models, ...route.rules.flatMap((rule) => rule.targets.map(({ model }) => model)), sentiment, canary?.model, canary?.agreement?.model];
  return [...new Set(named.filter((model): model is string => typeof model === 'string'))];
}

/** The signals of a decision as pairs of a name and what was found. */
export function signalsOf(decision: Decision): [string, unknown][] {
  return Object.entries(decision.detail.signals ?? {});
}
