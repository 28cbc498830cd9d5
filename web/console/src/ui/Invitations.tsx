import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Invitation, Role } from '../protocol';
import { may } from '../scopes';
import { fill } from '../words';
import { useSession, useSurroundings, useTime, useWords } from './context';
import { useList, useNames, useRoleName, useTenantPath, type Listed } from './data';
import { Confirm, Dialog, ShownOnce } from './Dialog';
import { Form, Refused, SelectField, TextField, useAct } from './form';
import { useRolesToGive } from './Members';
import { Rows, Section } from './parts';

type Made = Invitation & { token: string };

export function Invitations({ roles }: { roles: Role[] }): JSX.Element {
  const words = useWords();
  const path = useTenantPath();
  const invitations = useList<Invitation>(path('/invitations'));
  const nameOf = useNames();
  const changes = may(useSession().scopes, 'members:write');
  const [inviting, setInviting] = useState(false);
  const [made, setMade] = useState<Made | null>(null);
  return (
    <Section
      title={words.invitations.title}
      action={changes && <button type="button" class="button strong" onClick={() => setInviting(true)}>{words.members.invite}</button>}
    >
      <Rows list={invitations} none={words.invitations.none}>
        {(invitation) => (
          <InvitationRow key={invitation.id} invitation={invitation} by={nameOf(invitation.made_by)} roles={roles} list={invitations} />
        )}
      </Rows>
      {inviting && (
        <Invite
          roles={roles}
          close={() => setInviting(false)}
          done={(invitation) => {
            setInviting(false);
            setMade(invitation);
            void invitations.reload();
          }}
        />
      )}
      {made && (
        <ShownOnce
          title={words.invitations.linkTitle}
          note={fill(words.invitations.linkNote, { email: made.email })}
          label={words.invitations.link}
          value={`${location.origin}/console#/invitation/${made.token}`}
          close={() => setMade(null)}
        />
      )}
    </Section>
  );
}

interface InvitationRowProps {
  invitation: Invitation;
  by: string;
  roles: Role[];
  list: Listed<Invitation>;
}

function InvitationRow({ invitation, by, roles, list }: InvitationRowProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.invitations;
  const time = useTime();
  const roleName = useRoleName(roles);
  const path = useTenantPath()(`/invitations/${invitation.id}`);
  const changes = may(useSession().scopes, 'members:write');
  const [asking, setAsking] = useState(false);
  const open = invitation.state === 'open';
  return (
    <li class={open ? 'row' : 'row over'} data-test={`invitation-${invitation.email}`}>
      <div class="row-text">
        <p class="row-title">
          <span>{invitation.email}</span>
          <span class={open ? 'tag good' : 'tag'}>{words.states[invitation.state]}</span>
        </p>
        <p class="muted dots">
          <span>{roleName(invitation.role)}</span>
          {open && <span>{fill(words.until, { date: time(invitation.expires_at) })}</span>}
          <span>{fill(words.by, { name: by })}</span>
        </p>
      </div>
      {open && changes && (
        <div class="actions">
          <button type="button" class="button small danger" onClick={() => setAsking(true)}>{words.takeBack}</button>
        </div>
      )}
      {asking && (
        <Confirm
          title={fill(words.takeBackOf, { email: invitation.email })}
          body={words.takeBackBody}
          action={words.takeBack}
          close={() => setAsking(false)}
          run={async () => {
            await console.api.send('DELETE', path);
            await list.reload();
          }}
        />
      )}
    </li>
  );
}

function Invite({ roles, close, done }: { roles: Role[]; close: () => void; done: (made: Made) => void }): JSX.Element {
  const { console, words } = useSurroundings();
  const path = useTenantPath();
  const roleName = useRoleName(roles);
  const offered = useRolesToGive(roles);
  const act = useAct();
  const [email, setEmail] = useState('');
  // The least of them, so that nobody is made mighty by a press too soon.
  const [role, setRole] = useState('viewer');
  return (
    <Dialog title={words.members.invite} close={close}>
      <Form act={act} submit={async () => done(await console.api.send<Made>('POST', path('/invitations'), { email, role }))}>
        <TextField label={words.invitations.email} pointer="/email" refusal={act.refusal} value={email} setValue={setEmail} type="email" inputMode="email" focused />
        <SelectField
          label={words.members.role}
          pointer="/role"
          refusal={act.refusal}
          value={role}
          setValue={setRole}
          options={offered.map(({ id }) => [id, roleName(id)] as const)}
        />
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{words.cancel}</button>
          <button type="submit" class="button strong" disabled={act.busy}>{words.invitations.submit}</button>
        </div>
      </Form>
    </Dialog>
  );
}
