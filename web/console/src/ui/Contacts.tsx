/** Contacts: everybody who wrote, and the way to one of them. */
import type { JSX } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import type { Contact } from '../protocol';
import { fill } from '../words';
import { withDetails } from '../words/channels';
import { useContactWords } from '../words/contacts';
import { ContactPage } from './ContactPage';
import { useChannelNames } from './channelNames';
import { SurroundingsContext, useSurroundings, useTime } from './context';
import { useList, useTenantPath } from './data';
import { TextField } from './form';
import { Chevron, Heading, Rows } from './parts';

export function Contacts(): JSX.Element {
  const around = useSurroundings();
  const { route } = around.console;
  const item = 'item' in route ? route.item : undefined;
  const words = useMemo(() => withDetails(around.words, around.language), [around.language]);
  return (
    <SurroundingsContext.Provider value={{ ...around, words }}>
      {item === undefined ? <List /> : <ContactPage key={item} id={item} />}
    </SurroundingsContext.Provider>
  );
}

function List(): JSX.Element {
  const words = useContactWords();
  const [wanted, setWanted] = useState('');
  const contacts = useFound(wanted);
  const channelName = useChannelNames();
  return (
    <section class="section">
      <div>
        <Heading>{words.title}</Heading>
        <p class="muted">{words.intro}</p>
      </div>
      <TextField label={words.search} pointer="" refusal={null} value={wanted} setValue={setWanted} type="search" />
      <Rows list={contacts} none={wanted.trim() === '' ? words.none : words.noMatch}>
        {(contact) => <ContactRow key={contact.id} contact={contact} channelName={channelName} />}
      </Rows>
    </section>
  );
}

/** Contacts that fit, once somebody stopped typing. */
export function useFound(wanted: string): ReturnType<typeof useList<Contact>> {
  const path = useTenantPath();
  const [asked, setAsked] = useState('');
  useEffect(() => {
    const timer = setTimeout(() => setAsked(wanted.trim()), 250);
    return () => clearTimeout(timer);
  }, [wanted]);
  return useList<Contact>(path(asked === '' ? '/contacts' : `/contacts?search=${encodeURIComponent(asked)}`));
}

export function contactName(words: ReturnType<typeof useContactWords>, contact: Pick<Contact, 'id' | 'name'>): string {
  return contact.name ?? `${words.unnamed} ${contact.id.slice(-4)}`;
}

/** A letter in the place of a picture. */
export function Face({ contact }: { contact: Pick<Contact, 'id' | 'name'> }): JSX.Element {
  const shade = Number.parseInt(contact.id.slice(-1), 16) % 6;
  return (
    <span class={`face face-${Number.isNaN(shade) ? 0 : shade}`} aria-hidden="true">
      {contact.name ? [...contact.name.trim()][0]?.toUpperCase() : <svg class="icon" viewBox="0 0 20 20"><path d="M10 3.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6ZM4 16.5c.6-3 3-4.5 6-4.5s5.4 1.5 6 4.5" /></svg>}
    </span>
  );
}

/** A channel's own name of somebody may be a whole hash, of which ends are enough to be told apart. */
export function Outside({ id }: { id: string }): JSX.Element {
  return <span class="mono" title={id}>{id.length > 28 ? `${id.slice(0, 10)}…${id.slice(-6)}` : id}</span>;
}

function ContactRow({ contact, channelName }: { contact: Contact; channelName: (id: string) => string }): JSX.Element {
  const words = useContactWords();
  const time = useTime();
  return (
    <li class={contact.erased_at || contact.merged_into ? 'row goes over' : 'row goes'} data-test={`contact-${contact.name ?? contact.id}`}>
      <Face contact={contact} />
      <div class="row-text">
        <p class="row-title">
          <a class="row-link" href={`#/contacts/${contact.id}`} dir="auto">{contactName(words, contact)}</a>
          <ContactTags contact={contact} />
        </p>
        <p class="muted dots">
          {contact.channels.map((id) => <span key={id} dir="auto">{channelName(id)}</span>)}
          <span>{fill(words.since, { date: time(contact.created_at) })}</span>
        </p>
      </div>
      <Chevron />
    </li>
  );
}

export function ContactTags({ contact }: { contact: Contact }): JSX.Element {
  const words = useContactWords();
  return (
    <>
      {contact.merged_into !== null && <span class="tag">{words.merged}</span>}
      {contact.erased_at !== null && <span class="tag">{words.erased}</span>}
      {contact.erased_at === null && contact.erase_asked_at !== null && <span class="tag warn">{words.erasing}</span>}
    </>
  );
}
