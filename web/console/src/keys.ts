/** What state an API key is in. */
import type { ApiKey } from './protocol';

export type KeyState = 'works' | 'expired' | 'revoked';

export function keyState(key: ApiKey, nowMs: number): KeyState {
  if (key.revoked_at !== null) return 'revoked';
  if (key.expires_at !== null && Date.parse(key.expires_at) <= nowMs) return 'expired';
  return 'works';
}

/** Days until a key ends, by the name of the choice; `null` for no end. */
export const EXPIRY_DAYS = { never: null, d30: 30, d90: 90, d365: 365 } as const;
export type Expiry = keyof typeof EXPIRY_DAYS;

export function expiresAt(expiry: Expiry, nowMs: number): string | null {
  const days = EXPIRY_DAYS[expiry];
  return days === null ? null : new Date(nowMs + days * 86_400_000).toISOString();
}

/** One network per line or comma. */
export function readNetworks(text: string): string[] {
  return text.split(/[\n,]/).map((line) => line.trim()).filter((line) => line !== '');
}
