/** One channel: how it is doing, what is set of it, and what to do next. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { ago, isTried, labelled, sentences, snippet } from '../channels';
import type { Channel, ChannelKind } from '../protocol';
import { may } from '../scopes';
import { detailWords, fill, refusalWords } from '../words';
import { guideOf, useChannelWords, zhHelp } from '../words/channels';
import { EditChannel, SecretField, tryCredentials, useLabel } from './ChannelForm';
import { ChannelMark, kindName, StateTag, useKinds } from './Channels';
import { useSession, useSurroundings, useTime } from './context';
import { useAssistantNames, useRead, useTenantPath } from './data';
import { Confirm, CopyButton, Dialog } from './Dialog';
import { Form, Refused, SelectField, useAct } from './form';
import { PartnerCards } from './Partner';
import { Back, Heading } from './parts';

export function ChannelPage({ id }: { id: string }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = useChannelWords();
  const path = useTenantPath();
  const read = useRead<Channel>(path(`/channels/${encodeURIComponent(id)}`));
  const kinds = useKinds();
  const changes = may(useSession().scopes, 'channels:write');
  const { route } = console;
  const channel = read.value;
  if (channel === null) {
    return (
      <section class="section">
        <Back href="#/channels">{words.back}</Back>
        <Heading>{words.title}</Heading>
        {read.refusal === null && <p class="muted" role="status">{all.loading}</p>}
        {read.refusal && <p class="banner bad" role="alert">{read.refusal.status === 404 || read.refusal.status === 400 ? words.missing : refusalWords(all, read.refusal)}</p>}
      </section>
    );
  }
  const kind = kinds?.find((one) => one.kind === channel.kind) ?? null;
  if ('part' in route && route.part === 'edit' && changes && kind) {
    return <EditChannel key="edit" channel={channel} kind={kind} done={read.reload} />;
  }
  return <Shown channel={channel} kind={kind} changes={changes} reload={read.reload} />;
}

interface ShownProps {
  channel: Channel;
  kind: ChannelKind | null;
  changes: boolean;
  reload: () => Promise<void>;
}

function Shown({ channel, kind, changes, reload }: ShownProps): JSX.Element {
  const { language } = useSurroundings();
  const words = useChannelWords();
  const assistant = useAssistantNames()(channel.assistant_id);
  return (
    <section class="section">
      <Back href="#/channels">{words.back}</Back>
      <div class="section-head">
        <div class="titled">
          <ChannelMark kind={channel.kind} />
          <div>
            <Heading>
              <span dir="auto">{channel.name}</span> <StateTag channel={channel} />
            </Heading>
            <p class="muted dots">
              <span>{kind ? kindName(kind, language) : channel.kind}</span>
              {assistant && <span dir="auto">{fill(words.answeredBy, { name: assistant })}</span>}
              <span>{channel.last_message_at ? fill(words.lastMessage, { date: ago(channel.last_message_at, Date.now(), language) }) : words.noMessage}</span>
            </p>
          </div>
        </div>
        {changes && kind && <a class="button" href={`#/channels/${channel.id}/edit`}>{words.edit}</a>}
      </div>
      {isTried(channel.kind) && <Connection channel={channel} kind={kind} changes={changes} reload={reload} />}
      {channel.kind === 'web' && <Site channel={channel} />}
      {channel.partner && <PartnerCards channel={channel} partner={channel.partner} changes={changes} reload={reload} />}
      {isTried(channel.kind) && <NextSteps channel={channel} kind={kind} />}
      {kind && channel.kind !== 'partner' && <Settings channel={channel} kind={kind} changes={changes} reload={reload} />}
      {changes && <OpenOrClosed channel={channel} reload={reload} />}
    </section>
  );
}

function Connection({ channel, kind, changes, reload }: ShownProps): JSX.Element {
  const { console, language, words: all } = useSurroundings();
  const words = useChannelWords();
  const time = useTime();
  const path = useTenantPath()(`/channels/${channel.id}`);
  const act = useAct();
  const [works, setWorks] = useState(false);
  const connect = (): Promise<void> =>
    act.run(async () => {
      setWorks(false);
      setWorks(await tryCredentials(console.api, path));
      await reload();
    });
  const { account, connected_at: at, fault } = channel;
  return (
    <div class="card" data-test="connection">
      <h2>{words.connection}</h2>
      <div role="status">
        {act.busy && <p class="muted">{words.connecting}</p>}
        {!act.busy && fault !== null && (
          <div class="banner bad" data-test="fault">
            <strong>{words.wrong}</strong>
            <p>{detailWords(all, labelled(fault, kind, language))}</p>
          </div>
        )}
        {!act.busy && fault === null && at !== null && (
          <p class={works ? 'banner good' : ''}>
            {works && `${words.works} `}
            {account ? fill(words.connected, { account, date: time(at) }) : fill(words.connectedNameless, { date: time(at) })}
          </p>
        )}
        {!act.busy && fault === null && at === null && <p>{words.untried}</p>}
      </div>
      <Refused refusal={act.refusal} />
      {changes && (
        <div class="actions">
          <button type="button" class={at === null || fault !== null ? 'button strong' : 'button'} disabled={act.busy} onClick={() => void connect()}>
            {fault !== null ? words.connectAgain : at === null ? words.connect : words.check}
          </button>
        </div>
      )}
    </div>
  );
}

function NextSteps({ channel, kind }: { channel: Channel; kind: ChannelKind | null }): JSX.Element {
  const words = useChannelWords();
  const steps = words.steps[channel.kind] ?? [];
  const asked = ['poll', 'stream'].includes(String(channel.settings['receive']));
  return (
    <div class="card">
      <h2>{words.next}</h2>
      {channel.inbound_path !== null && kind?.inbound && !asked && (
        <Copied label={words.inbound} value={`${location.origin}${channel.inbound_path}`} hint={channel.kind === 'telegram' ? '' : words.inboundHint} test="inbound" />
      )}
      <ol class="steps">
        {steps.map((step) => <li key={step}>{step}</li>)}
      </ol>
      <p class="muted">{fill(words.guide, { file: guideOf(channel.kind) })}</p>
    </div>
  );
}

interface CopiedProps {
  label: string;
  value: string;
  hint?: string;
  test?: string;
}

/** Something to be put elsewhere. */
export function Copied({ label, value, hint = '', test }: CopiedProps): JSX.Element {
  return (
    <div class="field">
      <p class="label">{label}</p>
      <div class="with-button">
        <code class="secret" {...(test !== undefined && { 'data-test': test })}>{value}</code>
        <CopyButton value={value} label={label} />
      </div>
      {hint !== '' && <p class="hint">{hint}</p>}
    </div>
  );
}

function Site({ channel }: { channel: Channel }): JSX.Element {
  const words = useChannelWords();
  const sites = (channel.settings['origins'] as string[] | undefined) ?? [];
  const chat = `${location.origin}${channel.chat_path ?? ''}`;
  return (
    <>
      <div class="card">
        <h2>{words.chatPage}</h2>
        <p>{words.tryBody}</p>
        <Copied label={words.address} value={chat} test="chat" />
        <div class="actions">
          <a class="button strong" href={chat} target="_blank" rel="noopener">{words.tryIt}</a>
        </div>
      </div>
      <div class="card">
        <h2>{words.site}</h2>
        <p>{words.siteBody}</p>
        <Copied label={words.snippet} value={snippet(location.origin, channel.public_key ?? '')} test="snippet" />
        <div class="field">
          <p class="label">{words.sites}</p>
          {sites.length === 0 ? <p class="banner">{words.noSites}</p> : <ul class="chips">{sites.map((site) => <li key={site} class="mono">{site}</li>)}</ul>}
        </div>
        <p class="muted">{fill(words.guide, { file: guideOf('web') })}</p>
      </div>
    </>
  );
}

function Settings({ channel, kind, changes, reload }: { channel: Channel; kind: ChannelKind; changes: boolean; reload: () => Promise<void> }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useChannelWords();
  const labelOf = useLabel();
  const [rotating, setRotating] = useState(false);
  const [rotated, setRotated] = useState(false);
  const plain = kind.fields.filter((field) => !field.secret && field.name !== 'origins' && channel.settings[field.name] !== undefined);
  const secrets = kind.fields.filter((field) => field.secret);
  const show = (value: unknown): string => {
    if (Array.isArray(value)) return value.join(all.joint);
    if (typeof value === 'boolean') return value ? words.yes : words.no;
    return words.choices[String(value)] ?? String(value);
  };
  return (
    <div class="card" data-test="settings">
      <h2>{words.settings}</h2>
      {plain.length === 0 && secrets.length === 0 && <p class="muted">{words.nothingSet}</p>}
      {(plain.length > 0 || secrets.length > 0) && (
        <dl class="facts">
          {plain.map((field) => (
            <div key={field.name}>
              <dt>{labelOf(field)}</dt>
              <dd dir="auto">{show(channel.settings[field.name])}</dd>
            </div>
          ))}
          {secrets.map((field) => (
            <div key={field.name}>
              <dt>{labelOf(field)}</dt>
              <dd class="muted">{channel.secrets_set.includes(field.name) ? `•••••• ${words.secretSet}` : words.secretUnset}</dd>
            </div>
          ))}
        </dl>
      )}
      <div role="status">{rotated && <p class="banner good">{words.rotated}</p>}</div>
      {changes && secrets.length > 0 && (
        <div class="actions">
          <button type="button" class="button" onClick={() => setRotating(true)}>{words.rotate}</button>
        </div>
      )}
      {rotating && (
        <RotateSecret
          channel={channel}
          kind={kind}
          close={() => setRotating(false)}
          done={async () => {
            setRotating(false);
            setRotated(true);
            await reload();
          }}
        />
      )}
    </div>
  );
}

function RotateSecret({ channel, kind, close, done }: { channel: Channel; kind: ChannelKind; close: () => void; done: () => Promise<void> }): JSX.Element {
  const { console, language, words: all } = useSurroundings();
  const words = useChannelWords();
  const path = useTenantPath()(`/channels/${channel.id}`);
  const labelOf = useLabel();
  const act = useAct();
  const secrets = kind.fields.filter((field) => field.secret);
  const [which, setWhich] = useState(secrets[0]?.name ?? '');
  const [value, setValue] = useState('');
  const [overlap, setOverlap] = useState('s86400');
  const field = secrets.find(({ name }) => name === which);
  const help = (language === 'zh' && zhHelp[`${kind.kind}.${which}`]) || (field?.help ?? '');
  const hint = sentences([help, field?.required ? '' : words.rotateEmpty], language);
  async function submit(): Promise<void> {
    await console.api.send('PATCH', path, { secrets: { [which]: value.trim() }, secrets_overlap_s: Number(overlap.slice(1)) });
    if (channel.open && isTried(channel.kind)) await tryCredentials(console.api, path);
    await done();
  }
  return (
    <Dialog title={words.rotate} close={close}>
      <Form act={act} submit={submit}>
        <p>{words.rotateBody}</p>
        {secrets.length > 1 && (
          <SelectField
            label={words.rotateWhich}
            pointer=""
            refusal={null}
            value={which}
            setValue={setWhich}
            options={secrets.map((one) => [one.name, labelOf(one)] as const)}
          />
        )}
        <SecretField
          label={secrets.length > 1 ? words.rotateValue : field ? labelOf(field) : ''}
          pointer={`/secrets/${which}`}
          refusal={act.refusal}
          {...(hint !== '' && { hint })}
          value={value}
          setValue={setValue}
        />
        <SelectField label={words.overlap} pointer="/secrets_overlap_s" refusal={act.refusal} value={overlap} setValue={setOverlap} options={Object.entries(words.overlaps)} />
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{all.cancel}</button>
          <button type="submit" class="button strong" disabled={act.busy}>{words.rotate}</button>
        </div>
      </Form>
    </Dialog>
  );
}

function OpenOrClosed({ channel, reload }: { channel: Channel; reload: () => Promise<void> }): JSX.Element {
  const { console } = useSurroundings();
  const words = useChannelWords();
  const path = useTenantPath()(`/channels/${channel.id}`);
  const act = useAct();
  const [closing, setClosing] = useState(false);
  async function set(open: boolean): Promise<void> {
    await console.api.send('PATCH', path, { open });
    await reload();
  }
  return (
    <div class="card">
      <div class="section-head">
        <div>
          <h2>{words.closing}</h2>
          <p class="muted">{channel.open ? words.isOpen : words.isClosed}</p>
        </div>
        {channel.open ? (
          <button type="button" class="button danger" onClick={() => setClosing(true)}>{words.close}</button>
        ) : (
          <button type="button" class="button strong" disabled={act.busy} onClick={() => void act.run(() => set(true))}>{words.open}</button>
        )}
      </div>
      <Refused refusal={act.refusal} />
      {closing && (
        <Confirm title={fill(words.closeOf, { name: channel.name })} body={words.closeBody} action={words.close} close={() => setClosing(false)} run={() => set(false)} />
      )}
    </div>
  );
}
