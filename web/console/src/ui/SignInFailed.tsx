import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { useSurroundings } from './context';

export function SignInFailed({ code }: { code: string }): JSX.Element {
  const { console, words } = useSurroundings();
  const failures: Record<string, string> = words.failures;
  useEffect(() => {
    document.title = `${words.signIn.failed} · Qudao 渠道`;
  }, [words]);
  return (
    <>
      <h1>{words.signIn.failed}</h1>
      <p class="banner bad" role="alert" data-test="failure">{Object.hasOwn(failures, code) ? failures[code] : words.failures.failed}</p>
      <a class="button strong" href={`#/${console.tenant ?? 'sign-in'}`}>{words.signIn.back}</a>
    </>
  );
}
