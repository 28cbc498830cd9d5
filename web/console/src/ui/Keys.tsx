import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { keyState } from '../keys';
import type { ApiKey } from '../protocol';
import { may } from '../scopes';
import { fill } from '../words';
import { useSession, useSurroundings, useTime, useWords } from './context';
import { useList, useNames, useTenantPath, type Listed } from './data';
import { Confirm, ShownOnce } from './Dialog';
import { MakeKey, RotateKey, type MadeKey } from './KeyForms';
import { Heading, Rows, scopeWords } from './parts';

export function Keys(): JSX.Element {
  const words = useWords();
  const path = useTenantPath();
  const keys = useList<ApiKey>(path('/api-keys'));
  const nameOf = useNames();
  const changes = may(useSession().scopes, 'keys:write');
  const [making, setMaking] = useState(false);
  const [rotating, setRotating] = useState<ApiKey | null>(null);
  const [made, setMade] = useState<MadeKey | null>(null);
  const [showsOld, setShowsOld] = useState(false);
  const works = (key: ApiKey): boolean => keyState(key, Date.now()) === 'works';
  function done(key: MadeKey): void {
    setMaking(false);
    setRotating(null);
    setMade(key);
    void keys.reload();
  }
  return (
    <>
      <section class="section">
        <div class="section-head">
          <Heading>{words.keys.title}</Heading>
          {changes && <button type="button" class="button strong" onClick={() => setMaking(true)}>{words.keys.create}</button>}
        </div>
        <Rows list={keys} none={words.keys.none} filter={(key) => showsOld || works(key)}>
          {(key) => <KeyRow key={key.id} apiKey={key} by={nameOf(key.made_by)} list={keys} rotate={() => setRotating(key)} />}
        </Rows>
        {keys.items.some((key) => !works(key)) && (
          <label class="choice">
            <input type="checkbox" checked={showsOld} onChange={(event) => setShowsOld(event.currentTarget.checked)} />
            {words.keys.showOld}
          </label>
        )}
      </section>
      {making && <MakeKey close={() => setMaking(false)} done={done} />}
      {rotating && <RotateKey apiKey={rotating} close={() => setRotating(null)} done={done} />}
      {made && (
        <ShownOnce title={words.keys.secretTitle} note={words.keys.secretNote} label={words.keys.secret} value={made.key} close={() => setMade(null)} />
      )}
    </>
  );
}

interface KeyRowProps {
  apiKey: ApiKey;
  by: string;
  list: Listed<ApiKey>;
  rotate: () => void;
}

function KeyRow({ apiKey: key, by, list, rotate }: KeyRowProps): JSX.Element {
  const { console, words: all } = useSurroundings();
  const words = all.keys;
  const time = useTime();
  const path = useTenantPath()(`/api-keys/${key.id}`);
  const changes = may(useSession().scopes, 'keys:write');
  const [revoking, setRevoking] = useState(false);
  const state = keyState(key, Date.now());
  return (
    <li class={state === 'works' ? 'row' : 'row over'} data-test={`key-${key.name}`}>
      <div class="row-text">
        <p class="row-title">
          <span dir="auto">{key.name}</span>
          <span class="mono muted">…{key.last4}</span>
          {state !== 'works' && <span class="tag bad">{words[state]}</span>}
        </p>
        <p class="muted">{scopeWords(all, key.scopes)}</p>
        <p class="muted dots">
          <span>{key.last_used_at === null ? words.neverUsed : fill(words.lastUsed, { date: time(key.last_used_at) })}</span>
          {state === 'works' && key.expires_at !== null && <span>{fill(words.expires, { date: time(key.expires_at) })}</span>}
          {key.allowed_networks.length > 0 && <span>{fill(words.from, { networks: key.allowed_networks.join(all.joint) })}</span>}
          <span>{fill(words.created, { date: time(key.created_at), name: by })}</span>
        </p>
      </div>
      {state === 'works' && changes && (
        <div class="actions">
          <button type="button" class="button small" onClick={rotate}>{words.rotate}</button>
          <button type="button" class="button small danger" onClick={() => setRevoking(true)}>{words.revoke}</button>
        </div>
      )}
      {revoking && (
        <Confirm
          title={fill(words.revokeOf, { name: key.name })}
          body={words.revokeBody}
          action={words.revoke}
          close={() => setRevoking(false)}
          run={async () => {
            await console.api.send('DELETE', path);
            await list.reload();
          }}
        />
      )}
    </li>
  );
}
