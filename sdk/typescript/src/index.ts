/**
 * The partner channel protocol, PCP/1, for adapters in TypeScript. No dependency beyond Node.
 *
 *     const adapter = new Adapter(client, verifier)
 *     adapter.on("message.created", async (event) => { await show(event); return sent() })
 *     createServer(listener(adapter)).listen(8098)
 */
import { createHash, createHmac, createPublicKey, randomBytes, timingSafeEqual, verify as check, type KeyObject } from "node:crypto"
import type { IncomingMessage, ServerResponse } from "node:http"

export const VERSION = "2026-11-01"
const TOLERANCE = 300

/** Seconds since 1970. */
export type Clock = () => number
export const systemClock: Clock = () => Date.now() / 1000
/** A clock that stands still until it is moved, for tests. */
export class FakeClock {
  constructor(public now = 1795443493) {}
  readonly read: Clock = () => this.now
}

/** A request that is not believed; `status` is what to answer it with. */
export class Refused extends Error {
  constructor(message: string, readonly status = 401) {
    super(message)
  }
}

export interface Text { type: "text"; text: string; format?: "plain" | "markdown" }
export interface Media {
  type: "image" | "audio" | "video" | "file"
  url?: string; upload_id?: string; mime?: string; size?: number; sha256?: string
  name?: string; alt?: string; caption?: string; voice?: boolean
}
export interface Button { id: string; label: string; kind: "url" | "postback"; url?: string; value?: string }
export interface Buttons { type: "buttons"; fallback_text: string; items: Button[] }
export interface List { type: "list"; fallback_text: string; label: string; rows: { id: string; label: string; value?: string }[] }
/** A part of a kind that this version does not know: show `fallback_text`. */
export interface Unknown { type: string; fallback_text?: string; [name: string]: unknown }
export type Part = Text | Media | Buttons | List | Unknown

export interface Message {
  id?: string; external_id?: string; role?: "assistant" | "notice"
  idempotency_key?: string; reply_to?: string | null; parts: Part[]
}
export interface Envelope<Type extends string, Data> {
  spec: "pcp/1"; id: string; type: Type; time: string; data: Data
  tenant?: string; channel?: string
  conversation?: { id?: string; external_id: string; kind?: string; thread?: string | null }
  sender?: { external_id: string; name?: string; locale?: string; verified?: boolean; email?: string | null }
  seq?: number; expires_at?: string; channel_data?: unknown
}
export interface Turn { id: string; in_reply_to?: string; index: number; final: boolean }
export interface EventMap {
  "message.created": { turn?: Turn; message: Message }
  "message.updated": { message: Message; final?: boolean }
  "message.deleted": { message_id: string }
  "message.sent": { message_id: string }
  "message.delivered": { message_id: string }
  "message.read": { message_id: string }
  "message.failed": { message_id: string; reason: string; retryable?: boolean }
  "button.pressed": { message_id: string; item_id: string; value?: string }
  "typing.started": { ttl_s: number }
  "handoff.requested": { reason?: string }
  "handoff.accepted": object
  "handoff.returned": object
  "channel.error": { reason: string; status?: number }
  "endpoint.verify": { challenge: string }
  "endpoint.key_rotated": { key_id: string; secret?: string; old_keys_valid_until?: string }
  "delivery.gap": { from_seq: number; to_seq: number; reason: string }
  ping: object
}
export type EventType = keyof EventMap
export type Event<Type extends EventType = EventType> = Envelope<Type, EventMap[Type]>
export interface Delivered { status: "sent" | "queued" | "expired"; external_message_id?: string }

function secretKey(text: string): Buffer {
  const key = text.startsWith("whsec_") ? decode(text.slice(6)) : undefined
  if (!key || key.length < 24 || key.length > 64) throw new Error("a secret is whsec_ and 24 to 64 bytes in base64")
  return key
}

/** Base64 as it is written and not otherwise: Node's own reader skips what it does not know. */
function decode(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, "base64")
  return bytes.toString("base64") === text ? bytes : undefined
}

function publicKey(text: string): KeyObject {
  const key = text.startsWith("whpk_") ? decode(text.slice(5)) : undefined
  if (key?.length !== 32) throw new Error("a public key is whpk_ and 32 bytes in base64")
  return createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: key.toString("base64url") }, format: "jwk" })
}

function content(id: string, timestamp: string, body: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body])
}

const mac = (key: Buffer, signed: Buffer): Buffer => createHmac("sha256", key).update(signed).digest()

/** The value of `webhook-signature`: one entry for each secret. */
export function sign(secrets: readonly string[], id: string, timestamp: number, body: Uint8Array): string {
  if (secrets.length === 0) throw new Error("no secret: an unsigned event is not sent")
  const signed = content(id, String(timestamp), body)
  return secrets.map((secret) => `v1,${mac(secretKey(secret), signed).toString("base64")}`).join(" ")
}

export type Headers = Record<string, string | string[] | undefined>

/** Every key that is believed: shared secrets (`whsec_`) and public keys (`whpk_`). */
export class Verifier {
  private secrets: Buffer[]
  private readonly keys: KeyObject[]

  constructor(secrets: readonly string[], publicKeys: readonly string[] = [], readonly clock: Clock = systemClock) {
    this.secrets = secrets.map(secretKey)
    this.keys = publicKeys.map(publicKey)
    if (this.secrets.length + this.keys.length === 0) throw new Error("no key: nothing could be verified")
  }

  /** Believes another secret beside those before: a rotation. */
  addSecret(text: string): void {
    this.secrets = [secretKey(text), ...this.secrets].slice(0, 4)
  }

  /** The event's id, if these very bytes are signed and fresh; else throws `Refused`. */
  verify(headers: Headers, body: Uint8Array): string {
    const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
    const given = (name: string): string => {
      const value = lower[name]
      if (typeof value !== "string" || value === "") throw new Refused(`the header ${name} is missing`)
      return value
    }
    const [id, timestamp, signature] = [given("webhook-id"), given("webhook-timestamp"), given("webhook-signature")]
    if (!/^[A-Za-z0-9_-]{8,64}$/.test(id)) throw new Refused("webhook-id has another form")
    if (!/^[0-9]{1,12}$/.test(timestamp)) throw new Refused("webhook-timestamp is no number")
    if (Math.abs(this.clock() - Number(timestamp)) > TOLERANCE) throw new Refused("webhook-timestamp is too old or too new")
    const signed = content(id, timestamp, body)
    let found = false
    for (const entry of signature.split(" ").slice(0, 16)) {
      const comma = entry.indexOf(",")
      const made = comma < 0 ? undefined : decode(entry.slice(comma + 1))
      if (!made) continue
      const version = entry.slice(0, comma)
      if (version === "v1") {
        for (const key of this.secrets) {
          const own = mac(key, signed)
          found = (own.length === made.length && timingSafeEqual(own, made)) || found
        }
      } else if (version === "v1a" && made.length === 64) {
        for (const key of this.keys) found = check(null, signed, key, made) || found
      }
    }
    if (!found) throw new Refused("no signature matches")
    return id
  }
}

/** A part in words: what is not known is told by its fallback. */
export function words(part: Part): string {
  const fields = part as Record<string, unknown>
  const found = ["text", "fallback_text", "caption", "alt", "name"].map((name) => fields[name])
  return found.find((text): text is string => typeof text === "string" && text !== "") ?? ""
}

export const text = (text: string): Text => ({ type: "text", text })
export const sent = (externalId?: string): Delivered => ({
  status: "sent", ...(externalId === undefined ? {} : { external_message_id: externalId }),
})

/** An event of a conversation, for `Client.report`. */
export function report<Type extends EventType>(type: Type, room: string, data: EventMap[Type], sender = "adapter"): Event<Type> {
  return {
    spec: "pcp/1", id: `evt_${randomBytes(16).toString("hex")}`, type, time: new Date().toISOString(), data,
    conversation: { external_id: room }, sender: { external_id: sender },
  }
}

/** What a person said, for `Client.report`. */
export function message(room: string, parts: Part[], sender: string, replyTo?: string): Event<"message.created"> {
  const own: Message = { external_id: `m-${randomBytes(12).toString("hex")}`, parts, reply_to: replyTo ?? null }
  return report("message.created", room, { message: own }, sender)
}

export interface ClientOptions {
  baseUrl: string; channel: string; bearer: string; secrets: string[]
  clock?: Clock; timeoutMs?: number; attempts?: number
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

/** Reports events. Each conversation has a lane of its own, in which order is kept. */
export class Client {
  readonly url: string
  stopped = false
  private readonly lanes = new Map<string, Promise<unknown>>()

  constructor(readonly options: ClientOptions) {
    this.url = `${options.baseUrl.replace(/\/$/, "")}/v1/pcp/channels/${options.channel}`
  }

  async request(method: string, path: string, body?: Uint8Array, headers: Record<string, string> = {}): Promise<Response> {
    const url = path.startsWith("http") ? path : `${this.url}/${path}`
    const own: Record<string, string> = body ? { "content-type": "application/json" } : {}
    if (url.startsWith(this.url)) own.authorization = `Bearer ${this.options.bearer}`
    const signal = AbortSignal.timeout(this.options.timeoutMs ?? 10_000)
    return fetch(url, { method, body: body as BodyInit | undefined, headers: { ...own, ...headers }, redirect: "manual", signal })
  }

  /** Posts an event until it is taken or never will be; the last status, 0 for none. */
  async report(event: Event): Promise<number> {
    const body = Buffer.from(JSON.stringify(event))
    let status = 0
    for (let attempt = 0; attempt < (this.options.attempts ?? 8) && !this.stopped; attempt++) {
      const now = Math.floor((this.options.clock ?? systemClock)())
      const answer = await this.request("POST", "events", body, {
        "pcp-version": VERSION, "webhook-id": event.id, "webhook-timestamp": String(now),
        "webhook-signature": sign(this.options.secrets, event.id, now, body),
      }).catch(() => undefined)
      status = answer?.status ?? 0
      await answer?.arrayBuffer().catch(() => undefined)
      if (status === 410) this.stopped = true
      if ((status >= 200 && status < 300) || [400, 409, 410, 413, 422].includes(status)) return status
      const after = Number(answer?.headers.get("retry-after") ?? Number.NaN)
      await pause(Number.isFinite(after) ? after * 1000 : Math.min(200 * 2 ** attempt, 60_000))
    }
    return status
  }

  /** Reports an event after those of its conversation that came before it. */
  later(event: Event): Promise<number> {
    const room = event.conversation?.external_id ?? ""
    const done = (this.lanes.get(room) ?? Promise.resolve()).then(() => this.report(event))
    this.lanes.set(room, done.catch(() => undefined))
    return done
  }

  /** A file's bytes, by a fresh address if the one in the message is not good any more. */
  async fetch(part: Media): Promise<Buffer> {
    let answer = await this.request("GET", part.url ?? "")
    if (!answer.ok && part.upload_id) {
      const fresh = (await (await this.request("POST", `media/${part.upload_id}`)).json()) as { url: string }
      answer = await this.request("GET", fresh.url)
    }
    const data = Buffer.from(await answer.arrayBuffer())
    if (!answer.ok || createHash("sha256").update(data).digest("hex") !== part.sha256) throw new Refused("the file cannot be fetched", 503)
    return data
  }
}

/** Remembers events for a week; put a table with a unique key in its place. */
export interface Dedupe {
  /** True the first time, false when it comes again, undefined with other bytes. */
  first(id: string, digest: string): Promise<boolean | undefined> | boolean | undefined
}

export class MemoryDedupe implements Dedupe {
  private readonly seen = new Map<string, string>()
  first(id: string, digest: string): boolean | undefined {
    const before = this.seen.get(id)
    if (before === undefined) this.seen.set(id, digest)
    return before === undefined ? true : before === digest ? false : undefined
  }
}

type Handler = (event: Event<never>) => Promise<Delivered | void> | Delivered | void
export interface Answer { status: number; body: object }

/** Verifies, remembers, and hands events to what was registered for their type. */
export class Adapter {
  private readonly handlers = new Map<string, Handler>()

  constructor(readonly client: Client, readonly verifier: Verifier, readonly dedupe: Dedupe = new MemoryDedupe()) {}

  on<Type extends EventType>(type: Type, handler: (event: Event<Type>) => Promise<Delivered | void> | Delivered | void): void {
    this.handlers.set(type, handler as Handler)
  }

  /** What to answer a request with. */
  async handle(headers: Headers, body: Uint8Array): Promise<Answer> {
    try {
      const signed = this.verifier.verify(headers, body)
      const event = parse(body)
      if (event.id !== signed) throw new Refused("id is not webhook-id", 400)
      const first = await this.dedupe.first(event.id, createHash("sha256").update(body).digest("hex"))
      if (first === undefined) throw new Refused("this id was used for another event", 409)
      if (event.type === "endpoint.verify") {
        this.client.stopped = false
        return { status: 200, body: { challenge: (event.data as EventMap["endpoint.verify"]).challenge } }
      }
      if (event.type === "endpoint.key_rotated") {
        const { secret } = event.data as EventMap["endpoint.key_rotated"]
        if (secret) {
          this.verifier.addSecret(secret)
          this.client.options.secrets.unshift(secret)
        }
      }
      if (!first) return { status: 200, body: sent() }
      if (event.expires_at && Date.parse(event.expires_at) / 1000 <= this.verifier.clock()) return { status: 200, body: { status: "expired" } }
      // An unknown type is acknowledged and ignored.
      const answer = await this.handlers.get(event.type)?.(event as Event<never>)
      return { status: 200, body: answer ?? { status: "queued" } }
    } catch (error) {
      if (error instanceof Refused) return { status: error.status, body: { error: error.message } }
      throw error
    }
  }
}

function parse(body: Uint8Array): Event {
  try {
    const event = JSON.parse(Buffer.from(body).toString()) as Event
    if (event.spec !== "pcp/1" || typeof event.id !== "string" || typeof event.type !== "string") throw new Error("not pcp/1")
    return event
  } catch (error) {
    throw new Refused(`the body is no event: ${String(error)}`, 400)
  }
}

/** An adapter as a listener for `http.createServer`. */
export function listener(adapter: Adapter): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    const chunks: Buffer[] = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", () => {
      const answer = adapter.handle(request.headers, Buffer.concat(chunks))
      const failed = (): Answer => ({ status: 500, body: { error: "failed" } })
      void answer.catch(failed).then(({ status, body }) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body)))
    })
  }
}
