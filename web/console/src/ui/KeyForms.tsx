import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { expiresAt, readNetworks, type Expiry } from '../keys';
import type { ApiKey } from '../protocol';
import { expand } from '../scopes';
import { fieldWords, fill } from '../words';
import { useSession, useSurroundings } from './context';
import { useTenantPath } from './data';
import { Dialog } from './Dialog';
import { Field, Form, Refused, SelectField, TextField, useAct } from './form';
import { ScopeChoice } from './parts';

export type MadeKey = ApiKey & { key: string };

interface KeyFormProps {
  close: () => void;
  done: (key: MadeKey) => void;
}

export function MakeKey({ close, done }: KeyFormProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.keys;
  const path = useTenantPath();
  const act = useAct();
  const own = expand(useSession().scopes);
  const [name, setName] = useState('');
  const [scopes, setScopes] = useState<string[]>(own.includes('chat') ? ['chat'] : []);
  const [expiry, setExpiry] = useState<Expiry>('never');
  const [networks, setNetworks] = useState('');
  async function submit(): Promise<void> {
    const body = {
      name,
      scopes,
      expires_at: expiresAt(expiry, Date.now()),
      allowed_networks: readNetworks(networks),
    };
    done(await console.api.send<MadeKey>('POST', path('/api-keys'), body));
  }
  return (
    <Dialog title={words.create} close={close}>
      <Form act={act} submit={submit}>
        <TextField label={words.name} hint={words.nameHint} pointer="/name" refusal={act.refusal} value={name} setValue={setName} focused />
        <ScopeChoice
          legend={words.scopes}
          hint={all.roles.scopesHint}
          wrong={fieldWords(all, act.refusal, '/scopes')}
          offered={own}
          chosen={scopes}
          choose={setScopes}
        />
        <SelectField
          label={words.expiry}
          pointer="/expires_at"
          refusal={act.refusal}
          value={expiry}
          setValue={(value) => setExpiry(value as Expiry)}
          options={Object.entries(words.expiries)}
        />
        <Field label={words.networks} hint={words.networksHint} pointer="/allowed_networks" refusal={act.refusal}>
          {(control) => (
            <textarea {...control} rows={2} value={networks} spellcheck={false} onInput={(event) => setNetworks(event.currentTarget.value)} />
          )}
        </Field>
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{all.cancel}</button>
          <button type="submit" class="button strong" disabled={act.busy}>{words.submit}</button>
        </div>
      </Form>
    </Dialog>
  );
}

/** A new key with the same rights, while the old one goes on for some time. */
export function RotateKey({ apiKey, close, done }: KeyFormProps & { apiKey: ApiKey }): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.keys;
  const path = useTenantPath()(`/api-keys/${apiKey.id}/rotate`);
  const act = useAct();
  const [overlap, setOverlap] = useState('s86400');
  return (
    <Dialog title={fill(words.rotateOf, { name: apiKey.name })} close={close}>
      <Form
        act={act}
        submit={async () => done(await console.api.send<MadeKey>('POST', path, { overlap_seconds: Number(overlap.slice(1)) }))}
      >
        <p>{words.rotateBody}</p>
        <SelectField
          label={words.overlap}
          pointer="/overlap_seconds"
          refusal={act.refusal}
          value={overlap}
          setValue={setOverlap}
          options={Object.entries(words.overlaps)}
        />
        <Refused refusal={act.refusal} />
        <div class="actions">
          <button type="button" class="button" onClick={close}>{all.cancel}</button>
          <button type="submit" class="button strong" disabled={act.busy}>{words.rotate}</button>
        </div>
      </Form>
    </Dialog>
  );
}
