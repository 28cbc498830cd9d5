import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { SessionRow } from '../protocol';
import { may } from '../scopes';
import { fill } from '../words';
import { useSession, useSurroundings, useTime, useWords } from './context';
import { useList, useTenantPath, type Listed } from './data';
import { Form, Refused, TextField, useAct } from './form';
import { Heading, Rows, Section } from './parts';
import { SecondFactor } from './SecondFactor';

export function Account(): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.account;
  const session = useSession();
  const act = useAct();
  return (
    <>
      <Heading>{words.title}</Heading>
      <div class="card">
        <p class="row-title"><span dir="auto">{session.name}</span></p>
        <p class="muted">{session.email}</p>
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" disabled={act.busy} data-test="sign-out" onClick={() => void act.run(() => console.signOut())}>
            {words.signOut}
          </button>
        </div>
      </div>
      <Section title={words.password}>{session.has_password ? <ChangePassword /> : <p class="card">{words.noPassword}</p>}</Section>
      {session.has_password && <SecondFactor />}
      {may(session.scopes, 'members:read') && <Sessions />}
    </>
  );
}

function ChangePassword(): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.account;
  const { has_second_factor: needsCode } = useSession();
  const act = useAct();
  const [password, setPassword] = useState('');
  const [wanted, setWanted] = useState('');
  const [code, setCode] = useState('');
  const [done, setDone] = useState(false);
  async function submit(): Promise<void> {
    setDone(false);
    const body = { password, new_password: wanted, ...(needsCode && { code: code.trim() }) };
    await console.proves('/v1/session/password', body);
    setPassword('');
    setWanted('');
    setCode('');
    setDone(true);
  }
  return (
    <div class="card">
      <Form act={act} submit={submit}>
        <TextField label={words.present} pointer="/password" refusal={act.refusal} value={password} setValue={setPassword} type="password" autocomplete="current-password" />
        <TextField
          label={words.wanted}
          hint={all.accept.passwordHint}
          pointer="/new_password"
          refusal={act.refusal}
          value={wanted}
          setValue={setWanted}
          type="password"
          autocomplete="new-password"
        />
        {needsCode && (
          <TextField label={words.code} hint={words.codeHint} pointer="/code" refusal={act.refusal} value={code} setValue={setCode} autocomplete="one-time-code" />
        )}
        <Refused refusal={act.refusal} />
        <div role="status">{done && <p class="banner good">{words.changed}</p>}</div>
        <div class="actions">
          <button type="submit" class="button" disabled={act.busy}>{words.change}</button>
        </div>
      </Form>
    </div>
  );
}

function Sessions(): JSX.Element {
  const words = useWords();
  const session = useSession();
  const path = useTenantPath();
  const sessions = useList<SessionRow>(path(`/sessions?member_id=${session.member_id}`));
  const live = (row: SessionRow): boolean => row.ended_at === null && Date.now() < Date.parse(row.expires_at);
  return (
    <Section title={words.account.sessions}>
      <Rows list={sessions} none={words.loading} filter={live}>
        {(row) => <SessionItem key={row.id} row={row} list={sessions} />}
      </Rows>
    </Section>
  );
}

function SessionItem({ row, list }: { row: SessionRow; list: Listed<SessionRow> }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.account;
  const session = useSession();
  const time = useTime();
  const act = useAct();
  const path = useTenantPath()(`/sessions/${row.id}`);
  const own = row.id === session.session_id;
  const methods: Record<string, string> = all.methods;
  return (
    <li class="row" data-test="session">
      <div class="row-text">
        <p class="row-title">
          <span>{row.address}</span>
          {own && <span class="tag good">{words.thisBrowser}</span>}
        </p>
        <p class="muted dots">
          <span>{fill(words.seen, { date: time(row.seen_at) })}</span>
          <span>{methods[row.method] ?? row.method}</span>
        </p>
        <p class="muted">{row.user_agent}</p>
        <Refused refusal={act.refusal} />
      </div>
      {!own && may(session.scopes, 'members:write') && (
        <div class="actions">
          <button
            type="button"
            class="button small danger"
            aria-label={fill(words.endOf, { address: row.address })}
            disabled={act.busy}
            onClick={() =>
              void act.run(async () => {
                await console.api.send('DELETE', path);
                await list.reload();
              })
            }
          >
            {words.end}
          </button>
        </div>
      )}
    </li>
  );
}
