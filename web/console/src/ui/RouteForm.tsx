/** The form of a route. */
import type { ComponentChildren, JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Offer, Route } from '../protocol';
import { bodyOf, changesOf, draftOf, moved, newCanary, newRoute, newRule, newTarget, type CanaryDraft, type RouteDraft, type TargetDraft } from '../routes';
import { fieldWords, fill } from '../words';
import { useRouteWords } from '../words/routes';
import { useSurroundings } from './context';
import { useRead, useTenantPath } from './data';
import { Form, Refused, SelectField, TextField, useAct, type Act } from './form';
import { Back, Heading } from './parts';
import { Awaited } from './RoutePage';
import { RuleFields } from './RuleForm';

export function NewRoute(): JSX.Element {
  const { console } = useSurroundings();
  const words = useRouteWords();
  const path = useTenantPath();
  return (
    <RouteForm
      back="#/routes"
      backName={words.back}
      title={words.newRoute}
      action={words.submit}
      first={newRoute()}
      send={async (draft) => {
        const made = await console.api.send<Route>('POST', path('/routes'), bodyOf(draft));
        location.hash = `#/routes/${made.id}`;
      }}
    />
  );
}

export function EditRoute(): JSX.Element {
  const { route } = useSurroundings().console;
  const path = useTenantPath();
  const item = ('item' in route && route.item) || '';
  const read = useRead<Route>(path(`/routes/${encodeURIComponent(item)}`));
  return read.value === null ? <Awaited read={read} /> : <Edit route={read.value} />;
}

function Edit({ route }: { route: Route }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = useRouteWords();
  const path = useTenantPath();
  const [before] = useState(() => draftOf(route));
  const here = `#/routes/${route.id}`;
  return (
    <RouteForm
      back={here}
      backName={route.name}
      title={fill(words.editOf, { name: route.name })}
      action={all.save}
      first={before}
      payer={route.canary?.paid_by === 'operator'}
      send={async (draft) => {
        const changes = changesOf(before, draft);
        if (Object.keys(changes).length > 0) await console.api.send('PATCH', path(`/routes/${route.id}`), changes);
        location.hash = here;
      }}
    />
  );
}

interface RouteFormProps {
  back: string;
  backName: string;
  title: string;
  action: string;
  first: RouteDraft;
  /** Whether the operator pays for the trial. */
  payer?: boolean;
  send: (draft: RouteDraft) => Promise<void>;
}

function RouteForm({ back, backName, title, action, first, payer = false, send }: RouteFormProps): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useRouteWords();
  const path = useTenantPath();
  const act = useAct();
  const [draft, setDraft] = useState(first);
  const offers = useRead<{ data: Offer[] }>(path('/models')).value?.data ?? [];
  const set = (part: Partial<RouteDraft>): void => setDraft({ ...draft, ...part });
  const { refusal } = act;
  return (
    <section class="section narrow">
      <Back href={back}>{backName}</Back>
      <Heading>{title}</Heading>
      <Form act={act} submit={() => send(draft)}>
        <div class="card">
          <TextField label={words.name} hint={words.nameHint} pointer="/name" refusal={refusal} value={draft.name} setValue={(name) => set({ name })} />
          <Group title={words.models} hint={words.modelsHint}>
            <Targets act={act} at="/models" targets={draft.models} setTargets={(models) => set({ models })} offers={offers} />
          </Group>
        </div>
        <div class="card">
          <h2>{words.rules}</h2>
          <p class="hint">{words.rulesHint}</p>
          <Wrong act={act} pointer="/rules" />
          <ModelField label={words.sentimentModel} hint={words.sentimentHint} pointer="/sentiment_model" act={act} none={words.noSentiment} kind="classify" offers={offers} model={draft.sentiment} setModel={(sentiment) => set({ sentiment })} />
        </div>
        {draft.rules.map((rule, at) => (
          <RuleFields
            key={rule.key}
            act={act}
            at={at}
            count={draft.rules.length}
            rule={rule}
            offers={offers}
            setRule={(next) => set({ rules: draft.rules.map((one) => (one === rule ? next : one)) })}
            move={(by) => set({ rules: moved(draft.rules, at, by) })}
            remove={() => set({ rules: draft.rules.filter((one) => one !== rule) })}
          />
        ))}
        <div><button type="button" class="button" onClick={() => set({ rules: [...draft.rules, newRule()] })}>{words.addRule}</button></div>
        <div class="card">
          <label class="choice">
            <input type="checkbox" class="switch" role="switch" checked={draft.canary !== null} onChange={(event) => set({ canary: event.currentTarget.checked ? newCanary() : null })} />
            <strong>{words.trialOn}</strong>
          </label>
          <p class="hint">{words.trialHint}</p>
          {draft.canary && payer && <p class="banner">{words.payer}</p>}
          {draft.canary && <CanaryFields act={act} canary={draft.canary} setCanary={(canary) => set({ canary })} offers={offers} />}
        </div>
        <Refused refusal={refusal} />
        <div class="actions">
          <a class="button" href={back}>{all.cancel}</a>
          <button type="submit" class="button strong" disabled={act.busy}>{action}</button>
        </div>
      </Form>
    </section>
  );
}

/** Fields that belong together. */
export function Group({ title, hint, children }: { title: string; hint?: string; children: ComponentChildren }): JSX.Element {
  return (
    <fieldset class="form">
      <legend class="label">{title}</legend>
      {hint !== undefined && <p class="hint">{hint}</p>}
      {children}
    </fieldset>
  );
}

/** What is wrong with this very thing, and not with a part of it. */
export function Wrong({ act, pointer }: { act: Act; pointer: string }): JSX.Element | null {
  const { words } = useSurroundings();
  const own = act.refusal?.fields.filter((field) => field.pointer === pointer) ?? [];
  if (act.refusal === null || own.length === 0) return null;
  const wrong = fieldWords(words, Object.assign(Object.create(act.refusal), { fields: own }), pointer);
  return <p class="wrong" data-invalid="true" tabIndex={-1}>{wrong}</p>;
}

interface TargetsProps {
  act: Act;
  at: string;
  targets: TargetDraft[];
  setTargets: (targets: TargetDraft[]) => void;
  offers: Offer[];
  /** Whether models may share what comes. */
  weighs?: boolean;
  local?: boolean;
}

/** Models in their order. */
export function Targets({ act, at, targets, setTargets, offers, weighs = false, local = false }: TargetsProps): JSX.Element {
  const words = useRouteWords();
  const set = (target: TargetDraft, part: Partial<TargetDraft>): void => setTargets(targets.map((one) => (one === target ? { ...one, ...part } : one)));
  return (
    <>
      {targets.map((target, index) => (
        <div key={target.key} class="filter">
          <ModelField
            label={fill(words.nth, { n: String(index + 1) })}
            pointer={weighs ? `${at}/${index}/model` : `${at}/${index}`}
            act={act}
            none={words.choose}
            offers={local ? offers.filter((offer) => offer.data_class === 'local') : offers}
            model={target.model}
            setModel={(model) => set(target, { model })}
          />
          {weighs && <TextField label={words.weight} pointer={`${at}/${index}/weight`} refusal={act.refusal} value={target.weight} setValue={(weight) => set(target, { weight })} inputMode="numeric" />}
          <Order name={fill(words.nth, { n: String(index + 1) })} at={index} count={targets.length} move={(by) => setTargets(moved(targets, index, by))} remove={() => setTargets(targets.filter((one) => one !== target))} />
        </div>
      ))}
      <Wrong act={act} pointer={at} />
      {weighs && <p class="hint">{words.weightHint}</p>}
      <div><button type="button" class="button small" onClick={() => setTargets([...targets, newTarget()])}>{words.addModel}</button></div>
    </>
  );
}

interface OrderProps {
  name: string;
  at: number;
  count: number;
  move: (by: -1 | 1) => void;
  remove: () => void;
}

/** Buttons that move an item of a list, or take it out. */
export function Order({ name, at, count, move, remove }: OrderProps): JSX.Element {
  const words = useRouteWords();
  const button = (text: string, sign: string, run: () => void, off = false): JSX.Element => (
    <button type="button" class="button small" aria-label={`${text}: ${name}`} title={text} disabled={off} onClick={run}>{sign}</button>
  );
  return (
    <div class="actions">
      {count > 1 && button(words.up, '↑', () => move(-1), at === 0)}
      {count > 1 && button(words.down, '↓', () => move(1), at === count - 1)}
      {button(words.remove, '✕', remove)}
    </div>
  );
}

interface ModelFieldProps {
  label: string;
  hint?: string;
  pointer: string;
  act: Act;
  /** What stands there while none is chosen. */
  none: string;
  kind?: Offer['kind'];
  offers: Offer[];
  model: string;
  setModel: (model: string) => void;
}

/** One of the models on offer, or the one that is set, though nobody offers it now. */
export function ModelField({ label, hint, pointer, act, none, kind, offers, model, setModel }: ModelFieldProps): JSX.Element {
  const words = useRouteWords();
  const fitting = offers.filter((offer) => kind === undefined || offer.kind === kind);
  const options = fitting.map((offer) => [offer.model, offer.data_class === 'remote' ? `${offer.model} (${words.remote})` : offer.model] as const);
  const known = model === '' || fitting.some((offer) => offer.model === model);
  return (
    <SelectField
      label={label}
      {...(hint !== undefined && { hint })}
      pointer={pointer}
      refusal={act.refusal}
      value={model}
      setValue={setModel}
      options={[['', none], ...options, ...(known ? [] : [[model, `${model} (${words.state['gone']})`] as const])]}
    />
  );
}

function CanaryFields({ act, canary, setCanary, offers }: { act: Act; canary: CanaryDraft; setCanary: (canary: CanaryDraft) => void; offers: Offer[] }): JSX.Element {
  const words = useRouteWords();
  const { refusal } = act;
  const set = (part: Partial<CanaryDraft>): void => setCanary({ ...canary, ...part });
  const shadow = canary.mode === 'shadow';
  const number = (field: keyof CanaryDraft, label: string, pointer: string): JSX.Element => (
    <TextField label={label} pointer={`/canary/${pointer}`} refusal={refusal} value={canary[field]} setValue={(value) => set({ [field]: value })} inputMode="numeric" />
  );
  return (
    <>
      <ModelField label={words.model} pointer="/canary/model" act={act} none={words.choose} kind="chat" offers={offers} model={canary.model} setModel={(model) => set({ model })} />
      <Wrong act={act} pointer="/canary" />
      <SelectField label={words.mode} pointer="/canary/mode" refusal={refusal} value={canary.mode} setValue={(mode) => set({ mode })} options={Object.entries(words.modes)} />
      {number('percent', words.percent, 'percent')}
      {shadow && (
        <div class="pair">
          <SelectField label={words.compare} pointer="/canary/agreement/by" refusal={refusal} value={canary.by} setValue={(by) => set({ by, judge: '' })} options={Object.entries(words.comparisons)} />
          {(canary.by === 'embedding' || canary.by === 'label') && (
            <ModelField label={words.judge} pointer="/canary/agreement/model" act={act} none={words.choose} kind={canary.by === 'embedding' ? 'embed' : 'classify'} offers={offers} model={canary.judge} setModel={(judge) => set({ judge })} />
          )}
        </div>
      )}
      <Group title={words.rollback}>
        <div class="pair">
          {number('minutes', words.minutes, 'rollback/window_minutes')}
          {number('calls', words.minCalls, 'rollback/min_calls')}
          {number('errors', words.errorsAbove, 'rollback/error_rate_above')}
          {number('latency', words.latencyAbove, 'rollback/latency_ratio_above')}
          {shadow && canary.by !== '' && number('agreement', words.agreementBelow, 'rollback/agreement_below')}
        </div>
      </Group>
    </>
  );
}
