/** What pages read from the server. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { Refusal } from '../api';
import type { ApiKey, Assistant, Member, Page, Role } from '../protocol';
import { may } from '../scopes';
import { roleName } from '../words';
import { useSession, useSurroundings, useWords } from './context';

export interface Read<T> {
  /** `null` until it is there. */
  value: T | null;
  refusal: Refusal | null;
  reload: () => Promise<void>;
}

/** Reads `path` once; not at all if it is `null`. */
export function useRead<T>(path: string | null): Read<T> {
  const { api } = useSurroundings().console;
  const [value, setValue] = useState<T | null>(null);
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  // What was asked before and comes later than this is of no interest any more.
  const wanted = useRef(path);
  wanted.current = path;
  async function reload(): Promise<void> {
    if (path === null) return;
    try {
      const read = await api.get<T>(path);
      if (wanted.current !== path) return;
      setValue(read);
      setRefusal(null);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (wanted.current === path) setRefusal(error);
    }
  }
  useEffect(() => void reload(), [path]);
  return { value, refusal, reload };
}

export interface Listed<T> {
  items: T[];
  ready: boolean;
  refusal: Refusal | null;
  /** Reads what follows; `null` after the last. */
  more: (() => Promise<void>) | null;
  reload: () => Promise<void>;
}

/** A list that is read in parts. */
export function useList<T>(path: string): Listed<T> {
  const { api } = useSurroundings().console;
  const [items, setItems] = useState<T[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [ready, setReady] = useState(false);
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  const wanted = useRef(path);
  wanted.current = path;
  async function read(after: string | null): Promise<void> {
    const joint = path.includes('?') ? '&' : '?';
    try {
      const page = await api.get<Page<T>>(after === null ? path : `${path}${joint}cursor=${encodeURIComponent(after)}`);
      if (wanted.current !== path) return;
      setItems((before) => (after === null ? page.data : [...before, ...page.data]));
      setCursor(page.has_more ? page.next_cursor : null);
      setRefusal(null);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (wanted.current !== path) return;
      setRefusal(error);
    }
    setReady(true);
  }
  useEffect(() => void read(null), [path]);
  return { items, ready, refusal, more: cursor === null ? null : () => read(cursor), reload: () => read(null) };
}

/** The path of something of the tenant that the member works for. */
export function useTenantPath(): (rest: string) => string {
  const session = useSession();
  return (rest) => `/v1/tenants/${session.tenant_id}${rest}`;
}

export function useRoles(): Role[] {
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'members:read');
  return useRead<{ data: Role[] }>(reads ? path('/roles') : null).value?.data ?? [];
}

export function useRoleName(roles: readonly Role[]): (role: string) => string {
  const words = useWords();
  return (role) => roleName(words, role, roles);
}

/** Says who stands behind an id, as far as the member may know. */
export function useNames(): (id: string) => string {
  const words = useWords();
  const session = useSession();
  const path = useTenantPath();
  const members = useRead<Page<Member>>(may(session.scopes, 'members:read') ? path('/members?limit=200') : null);
  const keys = useRead<Page<ApiKey>>(may(session.scopes, 'keys:read') ? path('/api-keys?limit=200') : null);
  return (id) => {
    if (id === 'operator') return words.operator;
    if (id === session.member_id) return session.name;
    const known = [...(members.value?.data ?? []), ...(keys.value?.data ?? [])];
    return known.find((one) => one.id === id)?.name ?? id;
  };
}

/** `null` while they are read, or for a member who may not. */
export function useAssistants(): Assistant[] | null {
  const path = useTenantPath();
  const reads = may(useSession().scopes, 'assistants:read');
  return useRead<Page<Assistant>>(reads ? path('/assistants?limit=200') : null).value?.data ?? null;
}

export function useAssistantNames(): (id: string | null) => string | null {
  const assistants = useAssistants();
  return (id) => assistants?.find((one) => one.id === id)?.name ?? null;
}
