import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import type { Role } from '../protocol';
import { expand, may } from '../scopes';
import { fieldWords, fill } from '../words';
import { useSession, useSurroundings, useWords } from './context';
import { useRoleName, useTenantPath } from './data';
import { Confirm, Dialog } from './Dialog';
import { Form, Refused, TextField, useAct } from './form';
import { ScopeChoice, scopeWords, Section } from './parts';

interface RolesProps {
  roles: Role[];
  reload: () => Promise<void>;
}

export function Roles({ roles, reload }: RolesProps): JSX.Element {
  const words = useWords();
  const changes = may(useSession().scopes, 'members:write');
  const [making, setMaking] = useState(false);
  return (
    <Section
      title={words.roles.title}
      action={changes && <button type="button" class="button" onClick={() => setMaking(true)}>{words.roles.create}</button>}
    >
      <ul class="rows">{roles.map((role) => <RoleRow key={role.id} role={role} roles={roles} reload={reload} />)}</ul>
      {making && <EditRole role={null} reload={reload} close={() => setMaking(false)} />}
    </Section>
  );
}

function RoleRow({ role, roles, reload }: RolesProps & { role: Role }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.roles;
  const name = useRoleName(roles)(role.id);
  const path = useTenantPath()(`/roles/${role.id}`);
  const changes = may(useSession().scopes, 'members:write') && role.custom;
  const [question, setQuestion] = useState<'change' | 'remove' | null>(null);
  const close = (): void => setQuestion(null);
  return (
    <li class="row" data-test={`role-${role.name}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{name}</span>
          {!role.custom && <span class="tag">{words.builtIn}</span>}
        </p>
        <p class="muted">{scopeWords(all, role.scopes)}</p>
      </div>
      {changes && (
        <div class="actions">
          <button type="button" class="button small" onClick={() => setQuestion('change')}>{words.change}</button>
          <button type="button" class="button small danger" onClick={() => setQuestion('remove')}>{words.remove}</button>
        </div>
      )}
      {question === 'change' && <EditRole role={role} reload={reload} close={close} />}
      {question === 'remove' && (
        <Confirm
          title={fill(words.removeOf, { name })}
          body={words.removeBody}
          action={words.remove}
          close={close}
          run={async () => {
            await console.api.send('DELETE', path);
            await reload();
          }}
        />
      )}
    </li>
  );
}

interface EditRoleProps {
  /** `null` makes a new one. */
  role: Role | null;
  reload: () => Promise<void>;
  close: () => void;
}

function EditRole({ role, reload, close }: EditRoleProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.roles;
  const path = useTenantPath();
  const act = useAct();
  const own = expand(useSession().scopes);
  const [name, setName] = useState(role?.name ?? '');
  const [scopes, setScopes] = useState<string[]>(expand(role?.scopes ?? []));
  async function submit(): Promise<void> {
    if (role === null) await console.api.send('POST', path('/roles'), { name, scopes });
    else await console.api.send('PATCH', path(`/roles/${role.id}`), { name, scopes });
    await reload();
    close();
  }
  return (
    <Dialog title={role === null ? words.create : fill(words.changeOf, { name: role.name })} close={close}>
      <Form act={act} submit={submit}>
        <TextField label={words.name} pointer="/name" refusal={act.refusal} value={name} setValue={setName} focused />
        <ScopeChoice
          legend={words.scopes}
          hint={words.scopesHint}
          wrong={fieldWords(all, act.refusal, '/scopes')}
          offered={own}
          chosen={scopes}
          choose={setScopes}
        />
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{all.cancel}</button>
          <button type="submit" class="button strong" disabled={act.busy}>{all.save}</button>
        </div>
      </Form>
    </Dialog>
  );
}
