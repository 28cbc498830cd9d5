/** A partner's channel: whether it is live, its keys, where its events go and what became of them. */
import type { JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Refusal } from '../api';
import type { Channel, Deliveries, Delivery, Partner, PartnerKeys } from '../protocol';
import { fill, refusalWords } from '../words';
import { guideOf, useChannelWords } from '../words/channels';
import { Copied } from './ChannelPage';
import { useSurroundings, useTime } from './context';
import { useTenantPath } from './data';
import { Confirm, Dialog } from './Dialog';
import { Form, Refused, SelectField, TextField, useAct } from './form';

interface PartnerProps {
  channel: Channel;
  partner: Partner;
  changes: boolean;
  reload: () => Promise<void>;
}

export function PartnerCards(props: PartnerProps): JSX.Element {
  return (
    <>
      <State {...props} />
      <Keys {...props} />
      <Endpoint key={JSON.stringify(props.channel.settings)} {...props} />
      <Log {...props} />
    </>
  );
}

function State({ channel, partner }: PartnerProps): JSX.Element {
  const words = useChannelWords().partner;
  const guide = fill(useChannelWords().guide, { file: guideOf('partner') });
  const post = `${location.origin}/v1/pcp/channels/${channel.id}/conformance`;
  return (
    <div class="card" data-test="partner-state">
      <h2>{words.state}</h2>
      <p class={partner.sandbox ? 'banner' : 'banner good'}>{partner.sandbox ? words.sandboxBody : words.liveBody}</p>
      <Copied label={words.channelId} value={channel.id} />
      {partner.sandbox && (
        <details class="fold">
          <summary>{words.goLive}</summary>
          <div class="form">
            <ol class="steps">
              {words.goLiveSteps.map((step) => <li key={step}>{step}</li>)}
            </ol>
            <Copied label={words.reportCommand} value={`curl -X POST ${post} -H "authorization: Bearer $BEARER" -H "content-type: application/json" -d @report.json`} />
            <p class="muted">{guide}</p>
          </div>
        </details>
      )}
    </div>
  );
}

function Keys({ channel, partner, changes, reload }: PartnerProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = useChannelWords().partner;
  const path = useTenantPath()(`/channels/${channel.id}/partner-keys`);
  const [asked, setAsked] = useState<'make' | 'revoke' | null>(null);
  const [made, setMade] = useState<PartnerKeys | null>(null);
  const act = useAct();
  const some = partner.keys > 0;
  async function make(): Promise<void> {
    setMade(await console.api.send<PartnerKeys>('POST', path));
    await reload();
  }
  return (
    <div class="card" data-test="partner-keys">
      <h2>{words.keys}</h2>
      <p class="muted">{words.keysBody}</p>
      <p>{some ? fill(words.keyCount, { n: String(partner.keys) }) : words.noKeys}</p>
      <Refused refusal={act.refusal} />
      {changes && (
        <div class="actions">
          <button type="button" class={some ? 'button' : 'button strong'} disabled={act.busy} onClick={() => (some ? setAsked('make') : void act.run(make))}>
            {some ? words.exchangeKeys : words.makeKeys}
          </button>
          {some && <button type="button" class="button danger" onClick={() => setAsked('revoke')}>{words.revokeKeys}</button>}
        </div>
      )}
      {asked === 'make' && (
        <Dialog title={words.exchangeKeys} close={() => setAsked(null)}>
          <Form
            act={act}
            submit={async () => {
              await make();
              setAsked(null);
            }}
          >
            <p>{words.exchangeBody}</p>
            <Refused refusal={act.refusal} />
            <div class="actions">
              <button type="button" class="button" onClick={() => setAsked(null)}>{all.cancel}</button>
              <button type="submit" class="button strong" disabled={act.busy}>{words.exchangeKeys}</button>
            </div>
          </Form>
        </Dialog>
      )}
      {asked === 'revoke' && (
        <Confirm
          title={words.revokeKeys}
          body={words.revokeKeysBody}
          action={words.revokeKeys}
          close={() => setAsked(null)}
          run={async () => {
            await console.api.send('DELETE', path);
            await reload();
          }}
        />
      )}
      {made && asked === null && (
        <Dialog title={words.shownTitle} close={() => setMade(null)}>
          <div class="form">
            <p>{words.shownNote}</p>
            <Copied label={words.bearer} value={made.bearer_key ?? ''} test="bearer" />
            <Copied label={words.secret} value={made.signing_secret ?? ''} test="signing-secret" />
            <div class="actions">
              <button type="button" class="button strong" onClick={() => setMade(null)}>{all.done}</button>
            </div>
          </div>
        </Dialog>
      )}
    </div>
  );
}

function Endpoint({ channel, partner, changes, reload }: PartnerProps): JSX.Element {
  const { console } = useSurroundings();
  const words = useChannelWords().partner;
  const path = useTenantPath()(`/channels/${channel.id}/partner-endpoint`);
  const saving = useAct();
  const verifying = useAct();
  const [transport, setTransport] = useState(partner.transport);
  const [url, setUrl] = useState(String(channel.settings['endpoint_url'] ?? ''));
  const [publicKey, setPublicKey] = useState('');
  const [verified, setVerified] = useState(false);
  const body = { endpoint_url: url.trim(), transport, ...(publicKey.trim() !== '' && { public_key: publicKey.trim() }) };
  const look = { none: '', unverified: 'warn', active: 'good', paused: 'bad', disabled: 'bad' }[partner.endpoint];
  return (
    <div class="card" data-test="partner-endpoint">
      <h2>
        {words.endpoint} <span class={`tag ${look}`} data-test="endpoint-state">{words.endpoints[partner.endpoint]}</span>
      </h2>
      <p>{fill(words.endpointBodies[partner.endpoint] ?? '', { n: String(partner.failures) })}</p>
      {partner.endpoint === 'active' && partner.failures > 0 && <p class="banner">{fill(words.failing, { n: String(partner.failures) })}</p>}
      {partner.transport !== 'webhook' && <p class="muted">{fill(words.acknowledged, { acked: partner.acked_cursor, last: partner.last_cursor })}</p>}
      {!changes && <p class="mono">{url}</p>}
      {changes && (
        <Form
          act={saving}
          submit={async () => {
            setVerified(false);
            await console.api.send('PUT', path, body);
            await reload();
          }}
        >
          <SelectField label={words.transport} pointer="/transport" refusal={saving.refusal} value={transport} setValue={setTransport} options={Object.entries(words.transports)} />
          {transport === 'webhook' && (
            <TextField label={words.url} hint={words.urlHint} pointer="/endpoint_url" refusal={saving.refusal} value={url} setValue={setUrl} />
          )}
          <TextField label={words.publicKey} hint={channel.secrets_set.includes('partner_public_key') ? words.publicKeySet : words.publicKeyHint} pointer="/public_key" refusal={saving.refusal} value={publicKey} setValue={setPublicKey} />
          <Refused refusal={saving.refusal} />
          <Refused refusal={verifying.refusal} />
          <div role="status">{verified && <p class="banner good">{words.verified}</p>}</div>
          <div class="actions">
            {channel.settings['endpoint_url'] && (
              <button
                type="button"
                class={partner.endpoint === 'active' ? 'button' : 'button strong'}
                disabled={verifying.busy}
                onClick={() => {
                  setVerified(false);
                  void verifying.run(async () => {
                    await console.api.send('POST', `${path}/verify`);
                    setVerified(true);
                    await reload();
                  });
                }}
              >
                {words.verify}
              </button>
            )}
            <button type="submit" class="button" disabled={saving.busy}>{words.saveEndpoint}</button>
          </div>
        </Form>
      )}
    </div>
  );
}

const ENDED = ['done', 'dead', 'expired'];

function Log({ channel, changes }: PartnerProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = useChannelWords().partner;
  const path = useTenantPath()(`/channels/${channel.id}/deliveries`);
  const [status, setStatus] = useState('');
  const [items, setItems] = useState<Delivery[] | null>(null);
  const [next, setNext] = useState<string | null>(null);
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  const [sent, setSent] = useState<number | null>(null);
  const act = useAct();
  // What was asked before and comes later than this is of no interest any more.
  const wanted = useRef(status);
  wanted.current = status;
  async function read(before: string | null): Promise<void> {
    const asked = wanted.current;
    const query = new URLSearchParams({ limit: '20', ...(asked !== '' && { status: asked }), ...(before !== null && { before }) });
    try {
      const page = await console.api.get<Deliveries>(`${path}?${query}`);
      if (wanted.current !== asked) return;
      setItems((known) => (before === null ? page.data : [...(known ?? []), ...page.data]));
      setNext(page.next);
      setRefusal(null);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (wanted.current === asked) setRefusal(error);
    }
  }
  useEffect(() => {
    setItems(null);
    setNext(null);
    void read(null);
  }, [status]);
  const again = (body: object): Promise<void> =>
    act.run(async () => {
      setSent((await console.api.send<{ replayed: number }>('POST', `${path}/replay`, body)).replayed);
      await read(null);
    });
  const anyDead = changes && (items?.some((item) => item.status === 'dead') ?? false);
  return (
    <div class="card" data-test="deliveries">
      <div class="section-head">
        <div>
          <h2>{words.log}</h2>
          <p class="muted">{words.logBody}</p>
        </div>
        <div class="filter">
          <SelectField label={words.filter} pointer="" refusal={null} value={status} setValue={setStatus} options={[['', words.any], ...Object.entries(words.statuses)]} />
          <button type="button" class="button" onClick={() => void read(null)}>{words.refresh}</button>
        </div>
      </div>
      <div role="status">
        {items === null && refusal === null && <p class="muted">{all.loading}</p>}
        {items?.length === 0 && <p class="muted">{status === '' ? words.logNone : words.logNoneSuch}</p>}
        {sent !== null && <p class="banner good">{fill(words.sentAgain, { n: String(sent) })}</p>}
      </div>
      <div role="alert">{refusal && <p class="banner bad">{refusalWords(all, refusal)}</p>}</div>
      <Refused refusal={act.refusal} />
      {items !== null && items.length > 0 && (
        <ul class="rows">
          {items.map((item) => (
            <DeliveryRow key={item.cursor} item={item} again={changes && ENDED.includes(item.status) ? () => void again({ ids: [item.event_id] }) : null} />
          ))}
        </ul>
      )}
      {(next !== null || anyDead) && (
        <div class="actions">
          {next !== null && <button type="button" class="button small" onClick={() => void read(next)}>{all.more}</button>}
          {anyDead && <button type="button" class="button small" disabled={act.busy} onClick={() => void again({ status: 'dead' })}>{words.againAll}</button>}
        </div>
      )}
    </div>
  );
}

function DeliveryRow({ item, again }: { item: Delivery; again: (() => void) | null }): JSX.Element {
  const words = useChannelWords().partner;
  const time = useTime();
  const look = { ready: 'warn', sending: 'warn', done: 'good', dead: 'bad', expired: 'bad' }[item.status];
  const wrong = [item.last_status, item.last_error].filter((part) => part !== null).join(' · ');
  return (
    <li class="row" data-test={`delivery-${item.type}`}>
      <div class="row-text">
        <p class="row-title">
          <span class="mono">{item.type}</span>
          <span class={`tag ${look}`}>{words.statuses[item.status]}</span>
          {item.replayed && <span class="tag">{words.replayed}</span>}
        </p>
        <p class="muted dots">
          <span>{time(item.created_at)}</span>
          {item.conversation !== '' && <span dir="auto">{item.conversation}</span>}
          {item.attempts > 0 && <span>{fill(words.attempts, { n: String(item.attempts) })}</span>}
          {item.receipt && <span>{item.receipt}</span>}
          {item.next_attempt_at && item.attempts > 0 && <span>{fill(words.nextTry, { date: time(item.next_attempt_at) })}</span>}
        </p>
        {item.status !== 'done' && wrong !== '' && <p class="wrong">{wrong}</p>}
        {item.response && (
          <details>
            <summary>{words.answer}</summary>
            <pre>{item.response}</pre>
          </details>
        )}
      </div>
      {again && <button type="button" class="button small" onClick={again}>{words.again}</button>}
    </li>
  );
}
