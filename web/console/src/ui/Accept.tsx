import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { useSurroundings } from './context';
import { Form, Refused, TextField, useAct } from './form';

/** Somebody takes up an invitation. */
export function Accept(): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.accept;
  const act = useAct();
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  useEffect(() => {
    document.title = `${words.title} · Qudao 渠道`;
  }, [words]);
  if (console.invitation === null) {
    return (
      <>
        <h1>{words.lost}</h1>
        <p>{words.lostBody}</p>
        <a class="button" href={`#/${console.tenant ?? 'sign-in'}`}>{all.signIn.back}</a>
      </>
    );
  }
  return (
    <>
      <h1>{words.title}</h1>
      <p>{words.intro}</p>
      <Form act={act} submit={() => console.accept(name, password)}>
        <TextField label={words.name} pointer="/name" refusal={act.refusal} value={name} setValue={setName} autocomplete="name" focused />
        <TextField label={words.password} hint={words.passwordHint} pointer="/password" refusal={act.refusal} value={password} setValue={setPassword} type="password" autocomplete="new-password" />
        <Refused refusal={act.refusal} />
        <button type="submit" class="button strong" disabled={act.busy}>{words.submit}</button>
      </Form>
    </>
  );
}
