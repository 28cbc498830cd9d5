import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { matches, targetId } from '../audit';
import type { AuditEvent } from '../protocol';
import { useTime, useWords } from './context';
import { useList, useNames, useTenantPath } from './data';
import { Heading, Rows } from './parts';
import { TextField } from './form';

export function Audit(): JSX.Element {
  const all = useWords();
  const words = all.audit;
  const path = useTenantPath();
  const events = useList<AuditEvent>(path('/audit-events'));
  const nameOf = useNames();
  const [wanted, setWanted] = useState('');
  const shownText = (event: AuditEvent): string =>
    [nameOf(event.actor), all.actions[event.action] ?? '', nameOf(targetId(event)), JSON.stringify(event)].join(' ');
  return (
    <>
      <Heading>{words.title}</Heading>
      <section class="section">
        <TextField label={words.filter} pointer="" refusal={null} value={wanted} setValue={setWanted} type="search" />
        <Rows list={events} none={wanted === '' ? words.none : words.noMatch} filter={(event) => matches(shownText(event), wanted)}>
          {(event) => <EventRow key={event.seq} event={event} nameOf={nameOf} />}
        </Rows>
      </section>
    </>
  );
}

function EventRow({ event, nameOf }: { event: AuditEvent; nameOf: (id: string) => string }): JSX.Element {
  const all = useWords();
  const words = all.audit;
  const time = useTime();
  const target = nameOf(targetId(event));
  const actor = nameOf(event.actor);
  const more = { target: event.target, actor: event.actor, request: event.request_id, ...(event.detail as object) };
  return (
    <li class="row" data-test={`event-${event.action}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{actor}</span>
          <span class="action">{all.actions[event.action] ?? event.action}</span>
          {target !== actor && <span class={target === targetId(event) ? 'mono muted action' : ''} dir="auto">{target}</span>}
        </p>
        <p class="muted dots">
          <span>{time(event.at)}</span>
          {event.address && <span>{event.address}</span>}
          <span class="mono">{event.action}</span>
        </p>
        <details>
          <summary>{words.details}</summary>
          <pre>{JSON.stringify(more, null, 2)}</pre>
        </details>
      </div>
    </li>
  );
}
