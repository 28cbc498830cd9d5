/** One contact: where they are reached, what was said, and who else they are. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { ContactDetail, Conversation, Identity, Merge, Message } from '../protocol';
import { may } from '../scopes';
import { fill, refusalWords } from '../words';
import { useContactWords } from '../words/contacts';
import { useChannelNames } from './channelNames';
import { ContactTags, contactName, Face, Outside } from './Contacts';
import { useSession, useSurroundings, useTime } from './context';
import { useList, useNames, useRead, useTenantPath, type Read } from './data';
import { Confirm } from './Dialog';
import { Refused, useAct } from './form';
import { MergeWith } from './MergeWith';
import { Back, Heading, Rows, Section } from './parts';

export function ContactPage({ id }: { id: string }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useContactWords();
  const session = useSession();
  const time = useTime();
  const path = useTenantPath()(`/contacts/${encodeURIComponent(id)}`);
  const read = useRead<ContactDetail>(path);
  const contact = read.value;
  // What a merge moves shows in all parts of the page.
  const [round, setRound] = useState(0);
  async function reload(): Promise<void> {
    await read.reload();
    setRound(round + 1);
  }
  if (contact === null) {
    return (
      <section class="section">
        <Back href="#/contacts">{words.back}</Back>
        <Heading>{words.title}</Heading>
        {read.refusal === null && <p class="muted" role="status">{all.loading}</p>}
        {read.refusal && <p class="banner bad" role="alert">{read.refusal.status === 404 ? words.missing : refusalWords(all, read.refusal)}</p>}
      </section>
    );
  }
  return (
    <>
      <div class="section">
        <Back href="#/contacts">{words.back}</Back>
        <div class="titled">
          <Face contact={contact} />
          <div>
            <Heading>
              <span dir="auto">{contactName(words, contact)}</span> <ContactTags contact={contact} />
            </Heading>
            <p class="muted dots">
              <span>{fill(words.since, { date: time(contact.created_at) })}</span>
              <span class="mono">{contact.id}</span>
            </p>
          </div>
        </div>
        {contact.merged_into !== null && (
          <p class="banner">{words.mergedBody} <a href={`#/contacts/${contact.merged_into}`} class="mono">{contact.merged_into}</a></p>
        )}
      </div>
      <Identities contact={contact} path={path} reload={read.reload} />
      <Section title={words.conversations}>
        {may(session.scopes, 'conversations:read') ? <Conversations key={round} contact={contact} /> : <p class="muted">{words.mayNotRead}</p>}
      </Section>
      <Merges key={`merges-${round}`} contact={contact} path={path} reload={reload} />
    </>
  );
}

interface PartProps {
  contact: ContactDetail;
  path: string;
  reload: () => Promise<void>;
}

function Identities({ contact, path, reload }: PartProps): JSX.Element {
  const words = useContactWords();
  const channelName = useChannelNames();
  const came = Object.entries(contact.attribution ?? {});
  return (
    <Section title={words.identities}>
      {contact.identities.length === 0 && <p class="muted">{words.noIdentities}</p>}
      {contact.identities.length > 0 && (
        <ul class="rows">
          {contact.identities.map((identity) => (
            <IdentityRow key={`${identity.channel_id} ${identity.external_id}`} identity={identity} channel={channelName(identity.channel_id)} path={path} reload={reload} />
          ))}
        </ul>
      )}
      {came.length > 0 && (
        <p class="muted dots">
          <span>{words.came}:</span>
          {came.map(([name, value]) => <span key={name} dir="auto">{`${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`}</span>)}
        </p>
      )}
    </Section>
  );
}

function IdentityRow({ identity, channel, path, reload }: { identity: Identity; channel: string; path: string; reload: () => Promise<void> }): JSX.Element {
  const { console } = useSurroundings();
  const words = useContactWords();
  const time = useTime();
  const act = useAct();
  const { scopes } = useSession();
  const [changes, readsChannels] = [may(scopes, 'contacts:write'), may(scopes, 'channels:read')];
  const [wanted, setWanted] = useState<boolean | null>(null);
  const { unreachable_at: unreachable, unsubscribed_at: unsubscribed } = identity;
  return (
    <li class="row" data-test="identity">
      <div class="row-text">
        <p class="row-title">
          {readsChannels ? <a href={`#/channels/${identity.channel_id}`} class="plain" dir="auto">{channel}</a> : <span dir="auto">{channel}</span>}
          {unreachable === null ? <span class="tag good">{words.reachable}</span> : <span class="tag bad">{fill(words.unreachable, { date: time(unreachable) })}</span>}
          {!changes && <span class="tag">{unsubscribed === null ? words.subscribed : fill(words.unsubscribed, { date: time(unsubscribed) })}</span>}
        </p>
        <p class="muted dots">
          {identity.name && <span dir="auto">{identity.name}</span>}
          <Outside id={identity.external_id} />
          <span>{fill(words.knownSince, { date: time(identity.created_at) })}</span>
        </p>
        <Refused refusal={act.refusal} />
      </div>
      {changes && (
        <label class="choice" title={words.subscriptionHint}>
          <input
            type="checkbox"
            role="switch"
            class="switch"
            checked={wanted ?? unsubscribed === null}
            onChange={(event) => {
              const subscribed = event.currentTarget.checked;
              // Shown as it was asked for, until the server has said how it is.
              setWanted(subscribed);
              void act.run(async () => {
                await console.api.send('PATCH', `${path}/channels/${identity.channel_id}`, { subscribed });
                await reload();
              }).finally(() => setWanted(null));
            }}
          />
          <span>
            {words.subscription}
            {unsubscribed !== null && <span class="hint block">{fill(words.unsubscribed, { date: time(unsubscribed) })}</span>}
          </span>
        </label>
      )}
    </li>
  );
}

function Conversations({ contact }: { contact: ContactDetail }): JSX.Element {
  const { console } = useSurroundings();
  const words = useContactWords();
  const time = useTime();
  const path = useTenantPath();
  const list = useList<Conversation>(path(`/conversations?contact=${contact.id}`));
  const channelName = useChannelNames();
  const { route } = console;
  const open = 'part' in route ? route.part : undefined;
  return (
    <Rows list={list} none={words.noConversations}>
      {(conversation) => {
        const shown = conversation.id === open;
        const channel = channelName(conversation.channel_id);
        return (
          <li key={conversation.id} class="row" data-test="conversation">
            <div class="row-text">
              <p class="row-title" dir="auto">{channel}</p>
              <p class="muted dots">
                <span>{time(conversation.created_at)}</span>
                <span>{fill(words.counts, { in: String(conversation.messages_in), out: String(conversation.messages_out) })}</span>
              </p>
            </div>
            <button
              type="button"
              class="button small"
              aria-label={`${shown ? words.hide : words.read}: ${channel}, ${time(conversation.created_at)}`}
              aria-expanded={shown}
              onClick={() => {
                location.hash = shown ? `#/contacts/${contact.id}` : `#/contacts/${contact.id}/${conversation.id}`;
              }}
            >
              {shown ? words.hide : words.read}
            </button>
            {shown && <Transcript id={conversation.id} channel={channel} />}
          </li>
        );
      }}
    </Rows>
  );
}

/** What was said, as it was said; nothing can be written here. */
function Transcript({ id, channel }: { id: string; channel: string }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useContactWords();
  const time = useTime();
  const path = useTenantPath();
  const list = useList<Message>(path(`/conversations/${id}/messages?limit=100`));
  return (
    <div class="transcript" role="region" tabIndex={0} aria-label={fill(words.transcript, { channel })}>
      <div role="alert">{list.refusal && <p class="banner bad">{refusalWords(all, list.refusal)}</p>}</div>
      {list.items.length === 0 && list.refusal === null && <p class="muted" role="status">{list.ready ? words.noMessages : all.loading}</p>}
      <ol>
        {list.items.map((message) => (
          <li key={message.key} class={`said ${message.role}`}>
            <p class="muted dots">
              <span>{words.roles[message.role]}</span>
              <span>{time(message.at)}</span>
              {words.states[message.state] && <span class="wrong">{words.states[message.state]}</span>}
            </p>
            <p class="said-text" dir="auto">{message.text}</p>
          </li>
        ))}
      </ol>
      {list.more && <button type="button" class="button small" onClick={() => void list.more?.()}>{all.more}</button>}
    </div>
  );
}

function Merges({ contact, path, reload }: PartProps): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useContactWords();
  const merges = useRead<{ data: Merge[] }>(`${path}/merges`);
  const changes = may(useSession().scopes, 'contacts:write');
  const [merging, setMerging] = useState(false);
  const can = changes && contact.merged_into === null && contact.erase_asked_at === null;
  return (
    <Section
      title={words.merges}
      action={can && <button type="button" class="button" onClick={() => setMerging(true)}>{words.merge}</button>}
    >
      <p class="muted">{words.mergesBody}</p>
      <div role="alert">{merges.refusal && <p class="banner bad">{refusalWords(all, merges.refusal)}</p>}</div>
      {merges.value !== null && merges.value.data.length > 0 && (
        <ul class="rows">
          {merges.value.data.map((merge) => <MergeRow key={merge.id} merge={merge} contact={contact} changes={changes} merges={merges} path={path} reload={reload} />)}
        </ul>
      )}
      {merging && <MergeWith contact={contact} path={path} close={() => setMerging(false)} done={reload} />}
    </Section>
  );
}

interface MergeRowProps extends PartProps {
  merge: Merge;
  changes: boolean;
  merges: Read<{ data: Merge[] }>;
}

function MergeRow({ merge, contact, changes, path, reload }: MergeRowProps): JSX.Element {
  const { console } = useSurroundings();
  const words = useContactWords();
  const time = useTime();
  const nameOf = useNames();
  const [undoing, setUndoing] = useState(false);
  const came = merge.into === contact.id;
  const other = came ? merge.from : merge.into;
  return (
    <li class={merge.undone_at === null ? 'row' : 'row over'} data-test="merge">
      <div class="row-text">
        <p class="row-title">
          <a class="plain" href={`#/contacts/${other}`}>{fill(came ? words.madeOne : words.wentOver, { name: `…${other.slice(-6)}` })}</a>
          {merge.undone_at !== null && <span class="tag">{fill(words.undone, { date: time(merge.undone_at) })}</span>}
        </p>
        <p class="muted dots">
          <span>{fill(words.on, { date: time(merge.made_at), name: nameOf(merge.made_by) })}</span>
          <span>{words.evidence[merge.evidence] ?? merge.evidence}</span>
          <span dir="auto">{merge.consent}</span>
        </p>
      </div>
      {changes && merge.undone_at === null && (
        <button type="button" class="button small" onClick={() => setUndoing(true)}>{words.undo}</button>
      )}
      {undoing && (
        <Confirm
          title={words.undoTitle}
          body={words.undoBody}
          action={words.undo}
          close={() => setUndoing(false)}
          run={async () => {
            await console.api.send('POST', `${path}/merges/${merge.id}/undo`);
            await reload();
          }}
        />
      )}
    </li>
  );
}
