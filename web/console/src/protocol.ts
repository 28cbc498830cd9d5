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

export interface Assistant {
  id: string;
  name: string;
  route_id: string;
}

/** One setting of a kind of channel. */
export interface KindField {
  name: string;
  label: string;
  label_zh: string;
  help: string;
  secret: boolean;
  required: boolean;
  form: 'text' | 'url' | 'number' | 'bool' | 'list' | 'choice';
  choices: string[];
}

export interface ChannelKind {
  kind: string;
  name: string;
  name_zh: string;
  inbound: boolean;
  fields: KindField[];
}

export interface Partner {
  sandbox: boolean;
  transport: string;
  endpoint: 'none' | 'unverified' | 'active' | 'paused' | 'disabled';
  failures: number;
  keys: number;
  last_cursor: string;
  acked_cursor: string;
}

export interface Channel {
  id: string;
  name: string;
  kind: string;
  public_key: string | null;
  chat_path: string | null;
  inbound_path: string | null;
  assistant_id: string | null;
  locale: string;
  open: boolean;
  created_at: string;
  settings: Record<string, unknown>;
  secrets_set: string[];
  account: string | null;
  connected_at: string | null;
  fault: string | null;
  last_message_at: string | null;
  partner: Partner | null;
}

export interface PartnerKeys {
  bearer_key: string | null;
  signing_secret: string | null;
  key_id: string;
  old_keys_valid_for_s: number;
}

export interface Delivery {
  cursor: string;
  event_id: string;
  type: string;
  conversation: string;
  status: 'ready' | 'sending' | 'done' | 'dead' | 'expired';
  attempts: number;
  replayed: boolean;
  last_status: number | null;
  last_error: string | null;
  response: string | null;
  receipt: string | null;
  created_at: string;
  next_attempt_at: string | null;
}

export interface Deliveries {
  data: Delivery[];
  next: string | null;
}

export interface Contact {
  id: string;
  created_at: string;
  erase_asked_at: string | null;
  erased_at: string | null;
  merged_into: string | null;
  name: string | null;
  channels: string[];
}

export interface Identity {
  channel_id: string;
  external_id: string;
  created_at: string;
  name: string | null;
  unreachable_at: string | null;
  unsubscribed_at: string | null;
}

export interface ContactDetail extends Contact {
  identities: Identity[];
  attribution: Record<string, unknown> | null;
}

export interface Conversation {
  id: string;
  channel_id: string;
  contact_id: string;
  messages_in: number;
  messages_answered: number;
  messages_out: number;
  created_at: string;
}

export interface Message {
  key: string;
  role: 'user' | 'assistant' | 'notice';
  state: string;
  text: string;
  at: string;
}

export interface Merge {
  id: string;
  into: string;
  from: string;
  evidence: string;
  made_by: string;
  consent: string;
  made_at: string;
  undone_at: string | null;
}

export interface Rating {
  conversation_id: string;
  channel_id: string;
  contact_id: string;
  score: number;
  at: string;
}

export interface Ratings {
  days: number;
  data: { channel_id: string; count: number; good: number; scores: number[] }[];
  latest: Rating[];
}

export interface Offer {
  model: string;
  kind: 'chat' | 'embed' | 'classify' | 'detect' | 'transcribe';
  data_class: 'local' | 'remote';
  state: 'ready' | 'degraded' | 'loading' | 'failed' | 'quarantined';
  breaker: 'closed' | 'half_open' | 'open';
  open_for_s: number | null;
  price: { currency: string; input_per_mtok: string; output_per_mtok: string; per_call: string };
}

export interface Condition {
  signal: import('./routes').Signal;
  any_of?: string[];
  at_least?: number | string;
  at_most?: number;
  below?: string;
  model?: string;
}

export interface Rule {
  name: string;
  when: Condition[];
  targets: { model: string; weight?: number }[];
  local_only: boolean;
  canary: boolean;
}

export interface Canary {
  model: string;
  mode: 'live' | 'shadow';
  percent: number;
  paid_by: 'tenant' | 'operator';
  agreement?: { by: 'text' | 'embedding' | 'label'; model?: string };
  rollback: { window_minutes: number; min_calls: number; error_rate_above: number; latency_ratio_above: number; agreement_below: number };
  state: 'running' | 'rolled_back';
}

export interface Route {
  id: string;
  name: string;
  models: string[];
  rules: Rule[];
  sentiment_model: string | null;
  canary: Canary | null;
  created_at: string;
}

export interface TrialSide {
  calls: number;
  failures: number;
  latency_ms: number | null;
  compared: number;
  agreement: number | null;
}

export interface RouteTraffic {
  minutes: number;
  decisions: number;
  models: { model: string | null; decisions: number; fallbacks: number; latency_ms: number | null }[];
  rules: { rule: string | null; decisions: number }[];
  passed_over: { model: string; why: string; times: number }[];
  trial: { canary: TrialSide; stable: TrialSide } | null;
}

export interface Decision {
  id: string;
  turn_id: string;
  route_id: string;
  conversation_id: string | null;
  model: string | null;
  fallbacks: number;
  arm: 'stable' | 'canary' | 'shadow';
  detail: {
    door?: string;
    rule?: string | null;
    considered?: { rule: string; matched: boolean; failed_on?: string }[];
    signals?: Record<string, unknown>;
    candidates?: string[];
    local_only?: boolean;
    tries?: { model: string; outcome: string; latency_ms?: number }[];
    end?: string;
    shadow?: { model: string; outcome: string; agreement: number | null; cost: string; currency: string; paid_by: string };
  };
  at: string;
}
