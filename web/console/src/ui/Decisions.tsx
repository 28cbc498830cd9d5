/** What routes decided, and why. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Decision, Route } from '../protocol';
import { modelsOf, percentOf, signalsOf } from '../routes';
import { fill } from '../words';
import { useRouteWords, type RouteWords } from '../words/routes';
import { useSurroundings, useTime } from './context';
import { useList, useTenantPath } from './data';
import { SelectField } from './form';
import { money } from './Home';
import { Rows, Section } from './parts';

const NONE = { route_id: '', model: '', outcome: '', arm: '' };

/** Of one route, or of all that are given. */
export function Decisions({ routes, of }: { routes: Route[]; of?: Route }): JSX.Element {
  const words = useRouteWords();
  const path = useTenantPath();
  const [filter, setFilter] = useState(NONE);
  const asked = Object.entries({ ...filter, ...(of && { route_id: of.id }) }).filter(([, value]) => value !== '');
  const query = asked.map(([name, value]) => `&${name}=${encodeURIComponent(value)}`).join('');
  const list = useList<Decision>(path(`/decisions?limit=20${query}`));
  const models = [...new Set((of ? [of] : routes).flatMap(modelsOf))];
  const choice = (name: keyof typeof NONE, label: string, options: readonly (readonly [string, string])[]): JSX.Element => (
    <SelectField label={label} pointer="" refusal={null} value={filter[name]} setValue={(value) => setFilter({ ...filter, [name]: value })} options={[['', words.filter.all], ...options]} />
  );
  return (
    <Section title={words.decisions} action={<button type="button" class="button small" onClick={() => void list.reload()}>{words.refresh}</button>}>
      <p class="muted">{words.decisionsHint}</p>
      <div class="filter">
        {!of && choice('route_id', words.filter.route, routes.map(({ id, name }) => [id, name] as const))}
        {choice('model', words.filter.model, models.map((model) => [model, model] as const))}
        {choice('outcome', words.filter.outcome, Object.entries(words.outcomes))}
        {choice('arm', words.filter.arm, Object.entries(words.arms))}
      </div>
      <Rows list={list} none={asked.length > (of ? 1 : 0) ? words.noneFits : words.noDecisions}>
        {(decision) => <DecisionRow key={decision.id} decision={decision} {...(!of && { route: routes.find(({ id }) => id === decision.route_id)?.name ?? '' })} />}
      </Rows>
    </Section>
  );
}

function DecisionRow({ decision, route }: { decision: Decision; route?: string }): JSX.Element {
  const words = useRouteWords();
  const time = useTime();
  const { language } = useSurroundings();
  const { model, fallbacks, arm, detail, at } = decision;
  const { door = '', rule, tries = [], considered = [], shadow, local_only: local } = detail;
  const why = (word: string): string => words.why[word] ?? word;
  return (
    <li class="row" data-test="decision">
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{model === null ? words.byNobody : fill(words.by, { model })}</span>
          {fallbacks > 0 && <span class={model === null ? 'tag bad' : 'tag warn'}>{fill(words.fallbacks, { n: String(fallbacks) })}</span>}
          {arm !== 'stable' && <span class="tag">{words.arms[arm]}</span>}
          {local && <span class="tag">{words.localOnly}</span>}
        </p>
        <p class="muted dots">
          <span>{time(at)}</span>
          {route !== undefined && <span dir="auto">{route}</span>}
          <span dir="auto">{rule ?? words.noRule}</span>
          <span>{words.doors[door] ?? door}</span>
          {shadow && typeof shadow.agreement === 'number' && <span>{fill(words.agreed, { n: percentOf(shadow.agreement, language) })}</span>}
        </p>
        <details>
          <summary>{words.details}</summary>
          <dl class="facts">
            {signalsOf(decision).map(([name, found]) => (
              <div key={name}>
                <dt>{words.signals[name] ?? name}</dt>
                <dd>{foundWords(words, name, found, language)}</dd>
              </div>
            ))}
            {considered.map(({ rule: name, matched, failed_on: failed = '' }, index) => (
              <div key={index}>
                <dt dir="auto">{name}</dt>
                <dd>{matched ? words.matches : fill(words.failedOn, { signal: words.signals[failed] ?? failed })}</dd>
              </div>
            ))}
            <div>
              <dt>{words.asked}</dt>
              {tries.map((one, index) => (
                <dd key={index} dir="auto">{one.model}: {why(one.outcome)}{one.latency_ms !== undefined && ` (${fill(words.ms, { n: String(one.latency_ms) })})`}</dd>
              ))}
            </div>
            <div>
              <dt>ID</dt>
              <dd class="mono">{decision.turn_id}</dd>
            </div>
          </dl>
        </details>
      </div>
    </li>
  );
}

function foundWords(words: RouteWords, name: string, found: unknown, language: 'en' | 'zh'): string {
  if (Array.isArray(found)) return found.length === 0 ? '–' : found.map((one) => words.choices[String(one)] ?? String(one)).join(language === 'zh' ? '、' : ', ');
  if (typeof found === 'object' && found !== null) {
    const { unknown, label, probability } = found as { unknown?: string; label?: string; probability?: number };
    if (unknown !== undefined) return fill(words.unknown, { why: words.why[unknown] ?? unknown });
    return `${label} (${percentOf(probability ?? 0, language)})`;
  }
  // Amounts are whole numbers of micro-units here.
  if (name === 'balance' || name === 'spent_this_month') return money(String(Number(found) / 1e6), '', language).trim();
  return String(found);
}
