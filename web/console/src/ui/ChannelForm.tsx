/** The form of a channel, as the manifest of its kind says. */
import type { ComponentChildren, JSX } from 'preact';
import { useRef, useState } from 'preact/hooks';
import { Refusal } from '../api';
import { checkWeb, isTried, readForm, readValues, sentences, type Values } from '../channels';
import type { Channel, ChannelKind, KindField } from '../protocol';
import { fieldWords, fill } from '../words';
import { guideOf, useChannelWords, zhHelp } from '../words/channels';
import { ChannelMark, kindName, useKinds } from './Channels';
import { useSurroundings } from './context';
import { useAssistants, useTenantPath } from './data';
import { Field, Form, Refused, SelectField, TextField, useAct, type Act } from './form';
import { Back, Heading } from './parts';

export function NewChannel(): JSX.Element {
  const { console, language, words: all } = useSurroundings();
  const words = useChannelWords();
  const kinds = useKinds();
  const { route } = console;
  const chosen = kinds?.find(({ kind }) => 'part' in route && route.part === kind);
  if (chosen) return <MakeChannel key={chosen.kind} kind={chosen} />;
  return (
    <section class="section">
      <Back href="#/channels">{words.back}</Back>
      <Heading>{words.chooseKind}</Heading>
      {kinds === null && <p class="muted" role="status">{all.loading}</p>}
      <ul class="kinds">
        {[...(kinds ?? [])].sort(theirOwnLast).map((kind) => (
          <li key={kind.kind} class="card kind goes">
            <ChannelMark kind={kind.kind} />
            <div>
              <a class="row-link" href={`#/channels/new/${kind.kind}`}>{kindName(kind, language)}</a>
              <p class="muted">{words.kinds[kind.kind]}</p>
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What has to be programmed comes after what is there. */
function theirOwnLast(one: ChannelKind, other: ChannelKind): number {
  return Number(one.kind === 'partner') - Number(other.kind === 'partner');
}

function MakeChannel({ kind }: { kind: ChannelKind }): JSX.Element {
  const { console, language } = useSurroundings();
  const words = useChannelWords();
  const path = useTenantPath();
  const act = useAct();
  const called = kindName(kind, language);
  const [name, setName] = useState(called);
  const [values, setValues] = useState<Values>({});
  const assistants = useAssistants();
  const [assistant, setAssistant] = useState('');
  const answers = assistant === '' ? (assistants?.[0]?.id ?? '') : assistant;
  async function submit(): Promise<void> {
    const { settings, secrets } = readForm(kind, values);
    if (kind.kind === 'web') checkWeb(settings);
    const body = { name, kind: kind.kind, assistant_id: answers, settings, secrets };
    const made = await console.api.send<Channel>('POST', path('/channels'), body);
    if (isTried(kind.kind)) await tryCredentials(console.api, path(`/channels/${made.id}`));
    location.hash = `#/channels/${made.id}`;
  }
  return (
    <section class="section">
      <Back href="#/channels/new">{words.otherKind}</Back>
      <div class="titled">
        <ChannelMark kind={kind.kind} />
        <Heading>{fill(words.newOf, { kind: called })}</Heading>
      </div>
      <div class="beside">
        <div class="card">
          <Form act={act} submit={submit}>
            <TextField label={words.name} hint={words.nameHint} pointer="/name" refusal={act.refusal} value={name} setValue={setName} />
            {assistants?.length === 0 ? (
              <p class="banner">{words.noAssistant}</p>
            ) : (
              <SelectField
                label={words.assistant}
                pointer="/assistant_id"
                refusal={act.refusal}
                value={answers}
                setValue={setAssistant}
                options={(assistants ?? []).map(({ id, name: called }) => [id, called] as const)}
              />
            )}
            <KindFields kind={kind} fields={kind.fields.filter(isForPeople)} act={act} values={values} setValues={setValues} />
            <Refused refusal={act.refusal} />
            <div class="actions">
              <a class="button" href="#/channels/new">{useSurroundings().words.cancel}</a>
              <button type="submit" class="button strong" disabled={act.busy || answers === ''}>
                {act.busy && isTried(kind.kind) ? words.connecting : isTried(kind.kind) ? words.submitTried : words.submit}
              </button>
            </div>
          </Form>
        </div>
        <Afterwards kind={kind} />
      </div>
    </section>
  );
}

/** What is to be done at the other side, before somebody begins. */
function Afterwards({ kind }: { kind: ChannelKind }): JSX.Element {
  const words = useChannelWords();
  const steps = kind.kind === 'web' ? [words.tryBody, words.siteBody] : kind.kind === 'partner' ? words.partner.goLiveSteps : (words.steps[kind.kind] ?? []);
  return (
    <aside class="card aside" aria-label={words.afterwards}>
      <h2>{words.afterwards}</h2>
      <ol class="steps">
        {steps.map((step) => <li key={step}>{step}</li>)}
      </ol>
      {kind.inbound && kind.kind !== 'telegram' && <p class="muted">{words.inboundLater}</p>}
      <p class="muted">{fill(words.guide, { file: guideOf(kind.kind) })}</p>
    </aside>
  );
}

/** A partner's secrets are made by the platform, and its endpoint has a place of its own. */
function isForPeople({ name }: KindField): boolean {
  return !['signing_secret', 'signing_key', 'partner_public_key', 'endpoint_url', 'transport'].includes(name);
}

/** Asks the platform whether it takes the credentials. A refusal stays with the channel, in words. */
export async function tryCredentials(api: { send: <T>(method: string, path: string) => Promise<T> }, channel: string): Promise<boolean> {
  try {
    await api.send('POST', `${channel}/connect`);
    return true;
  } catch (error) {
    if (error instanceof Refusal && error.code === 'channel_refused') return false;
    throw error;
  }
}

export function EditChannel({ channel, kind, done }: { channel: Channel; kind: ChannelKind; done: () => Promise<void> }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = useChannelWords();
  const path = useTenantPath()(`/channels/${channel.id}`);
  const act = useAct();
  const [name, setName] = useState(channel.name);
  const [assistant, setAssistant] = useState(channel.assistant_id ?? '');
  const [values, setValues] = useState<Values>(() => readValues(kind, channel.settings));
  const assistants = useAssistants();
  const here = `#/channels/${channel.id}`;
  async function submit(): Promise<void> {
    const { settings } = readForm(kind, values);
    if (kind.kind === 'web') checkWeb(settings);
    const changed = kind.fields.length > 0 && JSON.stringify(settings) !== JSON.stringify(readForm(kind, readValues(kind, channel.settings)).settings);
    await console.api.send('PATCH', path, { name, ...(assistant !== channel.assistant_id && { assistant_id: assistant }), ...(changed && { settings }) });
    if (changed && isTried(kind.kind) && channel.open) await tryCredentials(console.api, path);
    await done();
    location.hash = here;
  }
  return (
    <section class="section narrow">
      <Back href={here}>{channel.name}</Back>
      <div class="titled">
        <ChannelMark kind={kind.kind} />
        <Heading>{fill(words.editOf, { name: channel.name })}</Heading>
      </div>
      <div class="card">
        <Form act={act} submit={submit}>
          <TextField label={words.name} hint={words.nameHint} pointer="/name" refusal={act.refusal} value={name} setValue={setName} />
          {assistants !== null && (
            <SelectField
              label={words.assistant}
              pointer="/assistant_id"
              refusal={act.refusal}
              value={assistant}
              setValue={setAssistant}
              options={assistants.map((one) => [one.id, one.name] as const)}
            />
          )}
          <KindFields kind={kind} fields={kind.fields.filter((field) => !field.secret && isForPeople(field))} act={act} values={values} setValues={setValues} />
          <Refused refusal={act.refusal} />
          <div class="actions">
            <a class="button" href={here}>{all.cancel}</a>
            <button type="submit" class="button strong" disabled={act.busy}>{all.save}</button>
          </div>
        </Form>
      </div>
    </section>
  );
}

/** What can be left out, and mostly is not. */
const MOSTLY_NEEDED = ['web.origins', 'email.smtp_password', 'email.imap_host', 'wechat.app_secret', 'wechat.aes_key'];

interface KindFieldsProps {
  kind: ChannelKind;
  fields: KindField[];
  act: Act;
  values: Values;
  setValues: (values: Values) => void;
}

/** What a channel cannot do without and what is set, and the rest behind a fold. */
function KindFields({ kind, fields, act, values, setValues }: KindFieldsProps): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useChannelWords();
  // As the form was opened: no field moves while it is written in.
  const [set] = useState(() => Object.keys(values).filter((name) => values[name] !== ''));
  const isFirst = (field: KindField): boolean => field.required || set.includes(field.name) || MOSTLY_NEEDED.includes(`${kind.kind}.${field.name}`);
  const draw = (field: KindField): JSX.Element => (
    <KindInput
      key={field.name}
      kind={kind.kind}
      field={field}
      refusal={act.refusal}
      value={values[field.name] ?? ''}
      setValue={(value) => setValues({ ...values, [field.name]: value })}
    />
  );
  const rest = fields.filter((field) => !isFirst(field));
  const wrongInRest = rest.some((field) => fieldWords(all, act.refusal, pointerOf(field)) !== '');
  return (
    <>
      {fields.filter(isFirst).map(draw)}
      {rest.length > 0 && <Fold title={words.optional} forced={wrongInRest}>{rest.map(draw)}</Fold>}
    </>
  );
}

function Fold({ title, forced, children }: { title: string; forced: boolean; children: ComponentChildren }): JSX.Element {
  const [open, setOpen] = useState(false);
  return (
    <details class="fold" open={open || forced} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title}</summary>
      <div class="form">{children}</div>
    </details>
  );
}

export function pointerOf(field: KindField): string {
  return `/${field.secret ? 'secrets' : 'settings'}/${field.name}`;
}

interface KindInputProps {
  kind: string;
  field: KindField;
  refusal: Refusal | null;
  value: string;
  setValue: (value: string) => void;
}

export function useLabel(): (field: KindField) => string {
  const { language } = useSurroundings();
  return (field) => (language === 'zh' ? field.label_zh : field.label);
}

export function KindInput({ kind, field, refusal, value, setValue }: KindInputProps): JSX.Element {
  const { language } = useSurroundings();
  const words = useChannelWords();
  const label = useLabel()(field);
  const help = (language === 'zh' && zhHelp[`${kind}.${field.name}`]) || field.help;
  const hint = sentences([help, field.form === 'list' ? words.lines : ''], language);
  const common = { label, pointer: pointerOf(field), refusal, ...(field.required && { mark: words.needed }), ...(hint !== '' && { hint }) };
  if (field.form === 'bool' || field.form === 'choice') {
    const choices = field.form === 'bool' ? ['true', 'false'] : field.choices;
    const nameOf = (choice: string): string => ({ true: words.yes, false: words.no, ...words.choices })[choice] ?? choice;
    const options = choices.map((choice) => [choice, nameOf(choice)] as const);
    return <SelectField {...common} value={value} setValue={setValue} options={field.required ? [['', '–'], ...options] : [['', words.unset], ...options]} />;
  }
  if (field.form === 'list') {
    return (
      <Field {...common}>
        {(control) => <textarea {...control} rows={3} value={value} spellcheck={false} onInput={(event) => setValue(event.currentTarget.value)} />}
      </Field>
    );
  }
  if (field.secret) return <SecretField {...common} value={value} setValue={setValue} />;
  if (kind === 'web' && field.name === 'color') return <ColorField {...common} value={value} setValue={setValue} />;
  return <TextField {...common} value={value} setValue={setValue} inputMode={field.form === 'number' ? 'numeric' : 'text'} />;
}

interface CommonProps {
  label: string;
  pointer: string;
  refusal: Refusal | null;
  mark?: string;
  hint?: string;
  value: string;
  setValue: (value: string) => void;
}

/** Hidden from whoever looks over a shoulder, until it is asked to be shown. */
export function SecretField({ value, setValue, ...common }: CommonProps): JSX.Element {
  const words = useChannelWords();
  const [shown, setShown] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <Field {...common}>
      {(control) => (
        <div class="with-button">
          <input
            {...control}
            ref={input}
            type={shown ? 'text' : 'password'}
            value={value}
            autocomplete="new-password"
            autocapitalize="none"
            spellcheck={false}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
          <button type="button" class="button small" aria-label={`${shown ? words.hide : words.show}: ${common.label}`} onClick={() => setShown(!shown)}>
            {shown ? words.hide : words.show}
          </button>
        </div>
      )}
    </Field>
  );
}

function ColorField({ value, setValue, ...common }: CommonProps): JSX.Element {
  return (
    <Field {...common}>
      {(control) => (
        <div class="with-button">
          <input {...control} type="text" value={value} autocomplete="off" spellcheck={false} placeholder="#0b7468" onInput={(event) => setValue(event.currentTarget.value)} />
          <input
            type="color"
            class="swatch"
            aria-label={common.label}
            value={/^#[0-9a-f]{6}$/i.test(value) ? value : '#0b7468'}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        </div>
      )}
    </Field>
  );
}
