/** People: who is in, who is invited, and what each may do. */
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Member, Role } from '../protocol';
import { expand, may } from '../scopes';
import { fill } from '../words';
import { useSession, useSurroundings, useTime, useWords } from './context';
import { useList, useRead, useRoleName, useTenantPath, type Listed } from './data';
import { Confirm, Dialog } from './Dialog';
import { Form, Refused, SelectField, useAct } from './form';
import { Invitations } from './Invitations';
import { Heading, Rows, Section } from './parts';
import { Roles } from './Roles';

export function Members(): JSX.Element {
  const words = useWords();
  const path = useTenantPath();
  const roles = useRead<{ data: Role[] }>(path('/roles'));
  const members = useList<Member>(path('/members'));
  const known = roles.value?.data ?? [];
  return (
    <>
      <Heading>{words.members.title}</Heading>
      <Section title={words.members.list}>
        <Rows list={members} none={words.loading}>
          {(member) => <MemberRow key={member.id} member={member} roles={known} list={members} />}
        </Rows>
      </Section>
      <Invitations roles={known} />
      <Roles roles={known} reload={roles.reload} />
    </>
  );
}

/** The roles that whoever is signed in may give: nobody makes somebody more than they are. */
export function useRolesToGive(roles: readonly Role[]): Role[] {
  const session = useSession();
  const own = expand(session.scopes);
  return roles.filter((role) => {
    const owns = role.id !== 'owner' || session.role === 'owner';
    return owns && expand(role.scopes).every((scope) => own.includes(scope));
  });
}

type Question = 'role' | 'suspend' | 'remove' | 'factor';

function MemberRow({ member, roles, list }: { member: Member; roles: Role[]; list: Listed<Member> }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.members;
  const session = useSession();
  const time = useTime();
  const roleName = useRoleName(roles);
  const act = useAct();
  const [question, setQuestion] = useState<Question | null>(null);
  const path = useTenantPath()(`/members/${member.id}`);
  const isOwn = member.id === session.member_id;
  const changes = may(session.scopes, 'members:write') && (member.role !== 'owner' || session.role === 'owner');
  const close = (): void => setQuestion(null);
  const ask = (asked: Question) => () => setQuestion(asked);
  async function change(body: object): Promise<void> {
    await console.api.send('PATCH', path, body);
    await list.reload();
    if (isOwn) await console.refresh();
  }
  const name = { name: member.name };
  return (
    <li class={member.suspended ? 'row over' : 'row'} data-test={`member-${member.email}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{member.name}</span>
          {isOwn && <span class="tag">{all.you}</span>}
          <span class="tag good">{roleName(member.role)}</span>
          {member.suspended && <span class="tag bad">{words.suspended}</span>}
        </p>
        <p class="muted dots">
          <span>{member.email}</span>
          <span>{fill(words.since, { date: time(member.created_at) })}</span>
          {member.has_second_factor && <span>{words.secondFactor}</span>}
          {!member.has_password && <span>{words.noPassword}</span>}
        </p>
        <Refused refusal={act.refusal} />
      </div>
      {changes && (
        <div class="actions">
          <button type="button" class="button small" onClick={ask('role')}>{words.changeRole}</button>
          {member.has_second_factor && !isOwn && (
            <button type="button" class="button small" onClick={ask('factor')}>{words.removeFactor}</button>
          )}
          {!isOwn && member.suspended && (
            <button type="button" class="button small" disabled={act.busy} onClick={() => void act.run(() => change({ suspended: false }))}>
              {words.resume}
            </button>
          )}
          {!isOwn && !member.suspended && (
            <button type="button" class="button small danger" onClick={ask('suspend')}>{words.suspend}</button>
          )}
          {!isOwn && <button type="button" class="button small danger" onClick={ask('remove')}>{words.remove}</button>}
        </div>
      )}
      {question === 'role' && <ChangeRole member={member} roles={roles} change={change} close={close} />}
      {question === 'suspend' && (
        <Confirm title={fill(words.suspendOf, name)} body={words.suspendBody} action={words.suspend} close={close} run={() => change({ suspended: true })} />
      )}
      {question === 'factor' && (
        <Confirm
          title={fill(words.removeFactorOf, name)}
          body={words.removeFactorBody}
          action={words.removeFactor}
          close={close}
          run={() => change({ has_second_factor: false })}
        />
      )}
      {question === 'remove' && (
        <Confirm
          title={fill(words.removeOf, name)}
          body={words.removeBody}
          action={words.remove}
          close={close}
          run={async () => {
            await console.api.send('DELETE', path);
            await list.reload();
          }}
        />
      )}
    </li>
  );
}

interface ChangeRoleProps {
  member: Member;
  roles: Role[];
  change: (body: object) => Promise<void>;
  close: () => void;
}

function ChangeRole({ member, roles, change, close }: ChangeRoleProps): JSX.Element {
  const words = useWords();
  const act = useAct();
  const roleName = useRoleName(roles);
  const [role, setRole] = useState(member.role);
  const offered = useRolesToGive(roles);
  return (
    <Dialog title={fill(words.members.changeRoleOf, { name: member.name })} close={close}>
      <Form
        act={act}
        submit={async () => {
          await change({ role });
          close();
        }}
      >
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
          <button type="submit" class="button strong" disabled={act.busy}>{words.save}</button>
        </div>
      </Form>
    </Dialog>
  );
}
