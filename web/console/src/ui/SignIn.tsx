import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { Refusal } from '../api';
import type { SignInOption } from '../protocol';
import { TENANT_ID } from '../route';
import { fill } from '../words';
import { useSurroundings, useWords } from './context';
import { Form, Refused, TextField, useAct } from './form';

export function SignIn(): JSX.Element {
  const { console, words } = useSurroundings();
  useEffect(() => {
    document.title = `${words.signIn.title} · Qudao 渠道`;
  }, [words]);
  return (
    <>
      <h1>{words.signIn.title}</h1>
      <div role="status">{console.ended && <p class="banner">{words.signIn.ended}</p>}</div>
      {console.tenant === null ? <WhichTenant /> : <Credentials tenant={console.tenant} />}
    </>
  );
}

function WhichTenant(): JSX.Element {
  const { console } = useSurroundings();
  const words = useWords().signIn;
  const act = useAct();
  const [tenant, setTenant] = useState('');
  async function submit(): Promise<void> {
    const id = tenant.trim().toLowerCase();
    if (!TENANT_ID.test(id)) throw new Refusal(422, 'validation_failed', '', [{ pointer: '/tenant', detail: words.tenantWrong }]);
    console.rememberTenant(id);
  }
  return (
    <Form act={act} submit={submit}>
      <TextField label={words.tenant} hint={words.tenantHint} pointer="/tenant" refusal={act.refusal} value={tenant} setValue={setTenant} autocomplete="organization" focused />
      <button type="submit" class="button strong">{words.next}</button>
    </Form>
  );
}

function Credentials({ tenant }: { tenant: string }): JSX.Element {
  const { console } = useSurroundings();
  const words = useWords().signIn;
  const act = useAct();
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  const [asksForCode, setAsksForCode] = useState(false);
  async function submit(): Promise<void> {
    try {
      await console.signIn(email, password, code.trim());
    } catch (error) {
      const needed = error instanceof Refusal && error.code === 'second_factor_needed';
      if (!needed) throw error;
      setAsksForCode(true);
    }
  }
  return (
    <>
      <Form act={act} submit={submit}>
        <TextField label={words.email} pointer="/email" refusal={act.refusal} value={email} setValue={setEmail} type="email" inputMode="email" autocomplete="username" focused />
        <TextField label={words.password} pointer="/password" refusal={act.refusal} value={password} setValue={setPassword} type="password" autocomplete="current-password" />
        {asksForCode && (
          <>
            <p class="banner" role="status">{words.codeNeeded}</p>
            <TextField label={words.code} hint={words.codeHint} pointer="/code" refusal={act.refusal} value={code} setValue={setCode} autocomplete="one-time-code" focused />
          </>
        )}
        <Refused refusal={act.refusal} />
        <button type="submit" class="button strong" disabled={act.busy}>{words.submit}</button>
      </Form>
      <Providers tenant={tenant} />
      <p class="hint">
        {words.noAccount}{' '}
        <span class="mono">{tenant}</span>{' '}
        <button type="button" class="link" onClick={() => console.rememberTenant(null)}>{words.otherTenant}</button>
      </p>
    </>
  );
}

/** The services that the tenant signs in by. Whoever cannot read them signs in by password. */
function Providers({ tenant }: { tenant: string }): JSX.Element | null {
  const { console } = useSurroundings();
  const words = useWords().signIn;
  const [options, setOptions] = useState<SignInOption[]>([]);
  useEffect(() => {
    const reading = console.api.get<{ identity_providers: SignInOption[] }>(`/v1/tenants/${tenant}/sign-in-options`);
    reading.then((found) => setOptions(found.identity_providers), () => setOptions([]));
  }, [tenant]);
  if (options.length === 0) return null;
  return (
    <>
      <p class="or">{words.or}</p>
      <ul class="form">
        {options.map((option) => (
          <li key={option.url} class="form">
            <a class="button" href={option.url}>{fill(words.with, { name: option.name })}</a>
          </li>
        ))}
      </ul>
    </>
  );
}
