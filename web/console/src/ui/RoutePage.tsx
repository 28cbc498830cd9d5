/** One route: how it decides, how its models do, what came through it, and its trial. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Condition, Offer, Route, RouteTraffic, Rule, TrialSide } from '../protocol';
import { modelsOf, percentOf, shares } from '../routes';
import { may } from '../scopes';
import { fill, refusalWords } from '../words';
import { useRouteWords, type RouteWords } from '../words/routes';
import { useSession, useSurroundings } from './context';
import { useRead, useTenantPath, type Read } from './data';
import { Decisions } from './Decisions';
import { Confirm } from './Dialog';
import { Refused, SelectField, useAct } from './form';
import { Back, Heading, Section } from './parts';
import { OfferRow, TrialTag, useEvery, useOffers, useUsers } from './Routes';

export function RoutePage({ id, changes }: { id: string; changes: boolean }): JSX.Element {
  const path = useTenantPath();
  const read = useRead<Route>(path(`/routes/${encodeURIComponent(id)}`));
  return read.value === null ? <Awaited read={read} /> : <Shown route={read.value} changes={changes} reload={read.reload} />;
}

/** A route that is not there yet, or not at all. */
export function Awaited({ read: { refusal } }: { read: Read<Route> }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useRouteWords();
  return (
    <section class="section">
      <Back href="#/routes">{words.back}</Back>
      {refusal ? <p class="banner bad" role="alert">{refusalWords(all, refusal)}</p> : <p class="muted" role="status">{all.loading}</p>}
    </section>
  );
}

function Shown({ route, changes, reload }: { route: Route; changes: boolean; reload: () => Promise<void> }): JSX.Element {
  const words = useRouteWords();
  const path = useTenantPath();
  const offers = useOffers();
  const users = useUsers()(route.id);
  const [period, setPeriod] = useState('m60');
  const traffic = useRead<RouteTraffic>(path(`/routes/${route.id}/traffic?minutes=${period.slice(1)}`));
  useEvery(10, traffic.reload);
  const reads = may(useSession().scopes, 'conversations:read');
  return (
    <>
      <section class="section">
        <Back href="#/routes">{words.back}</Back>
        <div class="section-head">
          <div>
            <div class="titled">
              <Heading>{route.name}</Heading>
              <TrialTag route={route} />
            </div>
            {users !== '' && <p class="muted" dir="auto">{fill(words.usedBy, { names: users })}</p>}
          </div>
          {changes && <a class="button strong" href={`#/routes/${route.id}/edit`}>{words.change}</a>}
        </div>
      </section>
      <Section title={words.works}>
        <ul class="rows">
          {route.rules.map((rule, at) => <RuleRow key={at} rule={rule} />)}
          <li class="row"><div class="row-text"><p class="row-title">{words.else}</p><Order targets={route.models.map((model) => ({ model }))} /></div></li>
        </ul>
      </Section>
      <Section title={words.now}>
        <ul class="rows">{modelsOf(route).map((model) => <OfferRow key={model} model={model} offers={offers} />)}</ul>
      </Section>
      <Section
        title={words.traffic}
        action={<SelectField label={words.period} pointer="" refusal={null} value={period} setValue={setPeriod} options={Object.entries(words.periods)} />}
      >
        <Traffic read={traffic} offers={offers.value?.data ?? []} />
      </Section>
      {route.canary && <Trial route={route} changes={changes} reload={reload} traffic={traffic.value} />}
      {reads && <Decisions routes={[route]} of={route} />}
    </>
  );
}

function RuleRow({ rule }: { rule: Rule }): JSX.Element {
  const words = useRouteWords();
  const { words: all } = useSurroundings();
  return (
    <li class="row" data-test={`rule-${rule.name}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{rule.name}</span>
          {rule.local_only && <span class="tag good">{words.localOnly}</span>}
          {rule.canary && <span class="tag">{words.inTrial}</span>}
        </p>
        <p class="muted dots">
          {rule.when.length === 0 ? <span>{words.always}</span> : rule.when.map((condition, at) => <span key={at} dir="auto">{conditionWords(words, condition, all.joint)}</span>)}
        </p>
        <Order targets={rule.targets} />
      </div>
    </li>
  );
}

/** Who is asked, in order, with the share that each is asked first. */
function Order({ targets }: { targets: Rule['targets'] }): JSX.Element {
  const words = useRouteWords();
  const { language } = useSurroundings();
  const part = shares(targets);
  return (
    <ul class="chips">
      {targets.map(({ model, weight }, at) => (
        <li key={model}>
          <span class="muted">{weight !== undefined ? percentOf(part[at] ?? 0, language) : at === 0 ? words.first : words.then}</span> <span dir="auto">{model}</span>
        </li>
      ))}
    </ul>
  );
}

function conditionWords(words: RouteWords, condition: Condition, joint: string): string {
  const { signal, any_of: values = [], at_least: low, at_most: high, below, model } = condition;
  const listed = values.map((value) => words.choices[value] ?? value).join(joint);
  const span = signal === 'sentiment' && typeof low === 'number' ? `≥ ${Math.round(low * 1000) / 10} %` : [low !== undefined && `≥ ${low}`, high !== undefined && `≤ ${high}`, below !== undefined && `< ${below}`].filter(Boolean).join(' ');
  return `${words.signals[signal]}: ${[model, listed, span].filter((piece) => piece).join(' ')}`;
}

function Traffic({ read, offers }: { read: Read<RouteTraffic>; offers: Offer[] }): JSX.Element {
  const { words: all, language } = useSurroundings();
  const words = useRouteWords();
  const { value: traffic, refusal } = read;
  if (traffic === null) return refusal ? <p class="banner bad" role="alert">{refusalWords(all, refusal)}</p> : <p class="muted" role="status">{all.loading}</p>;
  if (traffic.decisions === 0) return <p class="card empty">{words.quiet}</p>;
  const known = (model: string): boolean => offers.some((offer) => offer.model === model);
  return (
    <>
      <ul class="rows">
        {traffic.models.map(({ model, decisions, fallbacks, latency_ms: latency }) => (
          <li key={model} class={model !== null && known(model) ? 'row' : 'row over'} data-test={`share-${model ?? ''}`}>
            <div class="row-text">
              <p class="row-title"><span dir="auto">{model ?? words.nobody}</span></p>
              <p class="muted dots">
                <span>{fill(model === null ? words.unanswered : words.answered, { n: String(decisions) })}</span>
                {model !== null && fallbacks > 0 && <span>{fill(words.stoodIn, { n: String(fallbacks) })}</span>}
                {latency !== null && <span>{fill(words.ms, { n: String(Math.round(latency)) })}</span>}
              </p>
            </div>
            <Share part={decisions / traffic.decisions} good={model !== null} label={percentOf(decisions / traffic.decisions, language)} />
          </li>
        ))}
      </ul>
      <div class="cards">
        <Counts title={words.matched} items={traffic.rules.map(({ rule, decisions }) => [rule ?? words.noRule, decisions])} />
        {traffic.passed_over.length > 0 && <Counts title={words.passed} items={traffic.passed_over.map(({ model, why, times }) => [`${model}: ${words.why[why] ?? why}`, times])} />}
      </div>
    </>
  );
}

/** A bar that is as full as the share. Drawn, so that no style stands in the page. */
function Share({ part, good, label }: { part: number; good: boolean; label: string }): JSX.Element {
  return (
    <span class="with-button">
      <svg class="bars" viewBox="0 0 70 24" aria-hidden="true">
        <rect class="share-off" x="0" y="8" width="70" height="8" rx="4" />
        <rect class={good ? 'bar-good' : 'bar-low'} x="0" y="8" width={Math.max(4, Math.round(part * 70))} height="8" rx="4" />
      </svg>
      {label}
    </span>
  );
}

function Counts({ title, items }: { title: string; items: [string, number][] }): JSX.Element {
  const words = useRouteWords();
  return (
    <div class="card">
      <p class="card-name">{title}</p>
      <ul>{items.map(([name, times]) => <li key={name}><span dir="auto">{name}</span> <span class="muted">{fill(words.times, { n: String(times) })}</span></li>)}</ul>
    </div>
  );
}

interface TrialProps {
  route: Route;
  changes: boolean;
  reload: () => Promise<void>;
  traffic: RouteTraffic | null;
}

function Trial({ route, changes, reload, traffic }: TrialProps): JSX.Element {
  const { console, language } = useSurroundings();
  const words = useRouteWords();
  const path = useTenantPath();
  const act = useAct();
  const [ends, setEnds] = useState(false);
  const canary = route.canary;
  if (canary === null) return <></>;
  const change = async (next: unknown): Promise<void> => {
    await console.api.send('PATCH', path(`/routes/${route.id}`), { canary: next });
    await reload();
  };
  const sides = traffic?.trial;
  // A trial that the operator pays is begun anew by the operator alone.
  const restarts = canary.state === 'rolled_back' && canary.paid_by === 'tenant';
  return (
    <Section title={words.trial}>
      <div class="card" data-test="trial">
        <p class="row-title"><span dir="auto">{canary.model}</span> <TrialState state={canary.state} /></p>
        <p class="muted dots">
          <span>{words.modes[canary.mode]}</span>
          <span>{fill(words.ofTraffic, { n: percentOf(canary.percent / 100, language) })}</span>
        </p>
        {sides && (
          <dl class="facts">
            {([[words.canary, sides.canary], [words.stable, sides.stable]] as const).map(([name, side]) => (
              <div key={name}>
                <dt>{name}</dt>
                {sideWords(words, side, language).map((line) => <dd key={line}>{line}</dd>)}
              </div>
            ))}
          </dl>
        )}
        <Refused refusal={act.refusal} />
        {changes && (
          <div class="actions">
            {restarts && <button type="button" class="button small" disabled={act.busy} onClick={() => void act.run(() => change({ ...canary, state: 'running' }))}>{words.restart}</button>}
            <button type="button" class="button small danger" onClick={() => setEnds(true)}>{words.endTrial}</button>
          </div>
        )}
      </div>
      {ends && <Confirm title={`${words.endTrial}?`} body={fill(words.endTrialBody, { model: canary.model })} action={words.endTrial} close={() => setEnds(false)} run={() => change(null)} />}
    </Section>
  );
}

function TrialState({ state }: { state: 'running' | 'rolled_back' }): JSX.Element {
  const words = useRouteWords();
  return <span class={state === 'running' ? 'tag good' : 'tag warn'}>{state === 'running' ? words.running : words.rolledBack}</span>;
}

function sideWords(words: RouteWords, side: TrialSide, language: string): string[] {
  const lines = [`${words.calls}: ${side.calls}`];
  if (side.calls > 0) lines.push(`${words.errors}: ${percentOf(side.failures / side.calls, language)}`);
  if (side.latency_ms !== null) lines.push(`${words.latency}: ${Math.round(side.latency_ms)} ms`);
  if (side.agreement !== null) lines.push(`${words.agreement}: ${percentOf(side.agreement, language)}`);
  return lines;
}
