/** Making two contacts one: who, what goes where, and why it is certain. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Contact, ContactDetail, Conversation, Page } from '../protocol';
import { may } from '../scopes';
import { fill } from '../words';
import { useContactWords } from '../words/contacts';
import { useChannelNames } from './channelNames';
import { contactName, Face, Outside, useFound } from './Contacts';
import { useSession, useSurroundings, useTime } from './context';
import { useRead, useTenantPath } from './data';
import { Dialog } from './Dialog';
import { Field, Form, Refused, TextField, useAct } from './form';
import { Rows } from './parts';

interface MergeWithProps {
  contact: ContactDetail;
  path: string;
  close: () => void;
  done: () => Promise<void>;
}

export function MergeWith({ contact, path, close, done }: MergeWithProps): JSX.Element {
  const words = useContactWords();
  const [other, setOther] = useState<Contact | null>(null);
  return (
    <Dialog title={other ? fill(words.mergeOf, { name: contactName(words, other) }) : words.merge} close={close}>
      {other ? (
        <Preview contact={contact} other={other} path={path} back={() => setOther(null)} close={close} done={done} />
      ) : (
        <Choice contact={contact} close={close} choose={setOther} />
      )}
    </Dialog>
  );
}

function Choice({ contact, close, choose }: { contact: Contact; close: () => void; choose: (other: Contact) => void }): JSX.Element {
  const { words: all } = useSurroundings();
  const words = useContactWords();
  const [wanted, setWanted] = useState('');
  const found = useFound(wanted);
  const fits = (one: Contact): boolean => one.id !== contact.id && one.merged_into === null && one.erase_asked_at === null;
  const channelName = useChannelNames();
  const time = useTime();
  return (
    <div class="form">
      <TextField label={words.mergeSearch} hint={words.search} pointer="" refusal={null} value={wanted} setValue={setWanted} type="search" focused />
      <Rows list={found} none={words.noMatch} filter={fits}>
        {(one) => (
          <li key={one.id} class="row tight">
            <Face contact={one} />
            <div class="row-text">
              <p class="row-title" dir="auto">{contactName(words, one)}</p>
              <p class="muted dots">
                {one.channels.map((id) => <span key={id} dir="auto">{channelName(id)}</span>)}
                <span>{fill(words.since, { date: time(one.created_at) })}</span>
              </p>
            </div>
            <button type="button" class="button small" aria-label={`${words.mergePick}: ${contactName(words, one)}`} onClick={() => choose(one)}>{words.mergePick}</button>
          </li>
        )}
      </Rows>
      <div class="actions">
        <button type="button" class="button" onClick={close}>{all.cancel}</button>
      </div>
    </div>
  );
}

interface PreviewProps extends MergeWithProps {
  other: Contact;
  back: () => void;
}

function Preview({ contact, other, path, back, close, done }: PreviewProps): JSX.Element {
  const { console } = useSurroundings();
  const words = useContactWords();
  const act = useAct();
  const [consent, setConsent] = useState('');
  return (
    <Form
      act={act}
      submit={async () => {
        await console.api.send('POST', `${path}/merges`, { from: other.id, consent: consent.trim() });
        close();
        await done();
      }}
    >
      <div class="pair">
        <Side title={words.mergeStays} contact={contact} />
        <Side title={words.mergeGoes} contact={other} />
      </div>
      <p>{words.mergeSummary}</p>
      <Field label={words.consent} hint={words.consentHint} pointer="/consent" refusal={act.refusal}>
        {(control) => <textarea {...control} rows={2} maxLength={500} value={consent} onInput={(event) => setConsent(event.currentTarget.value)} />}
      </Field>
      <Refused refusal={act.refusal} />
      <div class="actions">
        <button type="button" class="button" onClick={back}>{words.other}</button>
        <button type="submit" class="button strong" disabled={act.busy}>{words.mergeSubmit}</button>
      </div>
    </Form>
  );
}

function Side({ title, contact }: { title: string; contact: Contact }): JSX.Element {
  const words = useContactWords();
  const channelName = useChannelNames();
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'conversations:read');
  const identities = useRead<ContactDetail>(path(`/contacts/${contact.id}`)).value?.identities ?? [];
  const conversations = useRead<Page<Conversation>>(reads ? path(`/conversations?contact=${contact.id}&limit=50`) : null).value;
  const count = conversations ? `${conversations.data.length}${conversations.has_more ? '+' : ''}` : '…';
  return (
    <div class="card">
      <p class="card-name">{title}</p>
      <div class="titled">
        <Face contact={contact} />
        <strong dir="auto">{contactName(words, contact)}</strong>
      </div>
      <ul class="muted">
        {identities.map((one) => (
          <li key={`${one.channel_id} ${one.external_id}`} class="dots">
            <span dir="auto">{channelName(one.channel_id)}</span>
            <Outside id={one.external_id} />
          </li>
        ))}
      </ul>
      {reads && <p class="muted">{fill(words.mergeCount, { n: count })}</p>}
    </div>
  );
}
