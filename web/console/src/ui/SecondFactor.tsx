import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { useSession, useSurroundings, useWords } from './context';
import { CopyButton, Dialog } from './Dialog';
import { Form, Refused, TextField, useAct } from './form';
import { Section } from './parts';

interface Offer {
  secret: string;
  url: string;
}

export function SecondFactor(): JSX.Element {
  const words = useWords().account;
  const { has_second_factor: on } = useSession();
  const [open, setOpen] = useState<'set-up' | 'remove' | null>(null);
  const [removed, setRemoved] = useState(false);
  return (
    <Section title={words.factor}>
      <div class="card">
        <p>{on ? words.factorOn : words.factorOff}</p>
        <div role="status">{removed && !on && <p class="banner good">{words.factorRemoved}</p>}</div>
        <div class="actions">
          {on ? (
            <button type="button" class="button danger" data-test="factor-remove" onClick={() => setOpen('remove')}>{words.factorRemove}</button>
          ) : (
            <button type="button" class="button" data-test="factor-start" onClick={() => setOpen('set-up')}>{words.factorStart}</button>
          )}
        </div>
      </div>
      {open === 'set-up' && <SetUp close={() => setOpen(null)} />}
      {open === 'remove' && (
        <Remove
          close={() => setOpen(null)}
          done={() => {
            setOpen(null);
            setRemoved(true);
          }}
        />
      )}
    </Section>
  );
}

/** Password, then the secret, then the app's first code, then the recovery codes. */
function SetUp({ close }: { close: () => void }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.account;
  const act = useAct();
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  const [offer, setOffer] = useState<Offer | null>(null);
  const [recovery, setRecovery] = useState<string[] | null>(null);
  function leave(): void {
    close();
    if (recovery !== null) void console.refresh();
  }
  async function ask(): Promise<void> {
    setOffer(await console.proves<Offer>('/v1/session/second-factor', { password }));
    setPassword('');
  }
  async function confirm(): Promise<void> {
    const body = { code: code.replace(/\s/g, '') };
    const { recovery_codes: codes } = await console.proves<{ recovery_codes: string[] }>('/v1/session/second-factor/confirm', body);
    setRecovery(codes);
  }
  if (recovery !== null) return <RecoveryCodes codes={recovery} close={leave} />;
  const buttons = (action: string): JSX.Element => (
    <>
      <Refused refusal={act.refusal} />
      <div class="actions">
        <button type="button" class="button" onClick={close}>{all.cancel}</button>
        <button type="submit" class="button strong" disabled={act.busy}>{action}</button>
      </div>
    </>
  );
  return (
    <Dialog title={words.factor} close={close}>
      {offer === null ? (
        <Form key="ask" act={act} submit={ask}>
          <TextField label={words.present} pointer="/password" refusal={act.refusal} value={password} setValue={setPassword} type="password" autocomplete="current-password" focused />
          {buttons(words.factorNext)}
        </Form>
      ) : (
        <Form key="confirm" act={act} submit={confirm}>
          <p>{words.scan}</p>
          <QrCode text={offer.url} />
          <p>{words.byHand}</p>
          <code class="secret" data-test="totp-secret" aria-label={words.secret}>{offer.secret}</code>
          <TextField label={words.firstCode} pointer="/code" refusal={act.refusal} value={code} setValue={setCode} inputMode="numeric" autocomplete="one-time-code" focused />
          {buttons(words.confirm)}
        </Form>
      )}
    </Dialog>
  );
}

/** Drawn here: the secret is sent to nobody. */
function QrCode({ text }: { text: string }): JSX.Element {
  const words = useWords().account;
  const [cells, setCells] = useState<boolean[][]>([]);
  useEffect(() => {
    void import('qr').then(({ encodeQR }) => setCells(encodeQR(text, 'raw', { ecc: 'low', border: 3 })));
  }, [text]);
  const path = cells.map((row, y) => row.map((dark, x) => (dark ? `M${x} ${y}h1v1h-1z` : '')).join('')).join('');
  return (
    <svg class="qr" viewBox={`0 0 ${cells.length || 1} ${cells.length || 1}`} role="img" aria-label={words.qr} shape-rendering="crispEdges">
      <path d={path} fill="#000" />
    </svg>
  );
}

function RecoveryCodes({ codes, close }: { codes: string[]; close: () => void }): JSX.Element {
  const words = useWords();
  return (
    <Dialog title={words.account.recoveryTitle} close={close}>
      <div class="form">
        <p>{words.account.recoveryNote}</p>
        <code class="secret" data-test="recovery" aria-label={words.account.recovery}>
          <span class="codes">{codes.map((code) => <span key={code}>{code}</span>)}</span>
        </code>
        <div class="actions">
          <CopyButton value={codes.join('\n')} />
          <button type="button" class="button" onClick={() => print()}>{words.account.print}</button>
          <button type="button" class="button strong" onClick={close}>{words.done}</button>
        </div>
      </div>
    </Dialog>
  );
}

function Remove({ close, done }: { close: () => void; done: () => void }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.account;
  const act = useAct();
  const [password, setPassword] = useState('');
  const [code, setCode] = useState('');
  async function submit(): Promise<void> {
    await console.proves('/v1/session/second-factor/remove', { password, code: code.trim() });
    await console.refresh();
    done();
  }
  return (
    <Dialog title={words.factor} close={close}>
      <Form act={act} submit={submit}>
        <TextField label={words.present} pointer="/password" refusal={act.refusal} value={password} setValue={setPassword} type="password" autocomplete="current-password" focused />
        <TextField label={words.code} hint={words.codeHint} pointer="/code" refusal={act.refusal} value={code} setValue={setCode} autocomplete="one-time-code" />
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{all.cancel}</button>
          <button type="submit" class="button strong danger" disabled={act.busy}>{words.factorRemove}</button>
        </div>
      </Form>
    </Dialog>
  );
}
