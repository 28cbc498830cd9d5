/** What the server says and takes; see `docs/openapi.json`. */

export interface Session {
  tenant_id: string;
  member_id: string;
  session_id: string;
  name: string;
  email: string;
  role: string;
  has_password: boolean;
  has_second_factor: boolean;
  scopes: string[];
  csrf_token: string;
  expires_at: string;
}

export interface Tenant {
  id: string;
  name: string;
  currency: string;
}

export interface Money {
  amount: string;
  currency: string;
}

export interface Wallet {
  available: Money;
  posted: Money;
  held: Money;
}

export interface Member {
  id: string;
  email: string;
  name: string;
  role: string;
  suspended: boolean;
  has_password: boolean;
  has_second_factor: boolean;
  created_at: string;
}

export interface Invitation {
  id: string;
  email: string;
  role: string;
  state: 'open' | 'accepted' | 'revoked' | 'expired';
  made_by: string;
  created_at: string;
  expires_at: string;
}

export interface Role {
  id: string;
  name: string;
  scopes: string[];
  custom: boolean;
}

export interface ApiKey {
  id: string;
  name: string;
  last4: string;
  scopes: string[];
  allowed_networks: string[];
  made_by: string;
  replaces: string | null;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  last_used_at: string | null;
}

export interface SessionRow {
  id: string;
  member_id: string;
  method: string;
  address: string;
  user_agent: string;
  created_at: string;
  seen_at: string;
  expires_at: string;
  ended_at: string | null;
}

export interface AuditEvent {
  seq: number;
  at: string;
  actor: string;
  action: string;
  target: string;
  address: string | null;
  request_id: string | null;
  detail: unknown;
}

export interface Page<T> {
  data: T[];
  has_more: boolean;
  next_cursor: string | null;
}

export interface SignInOption {
  name: string;
  url: string;
}
