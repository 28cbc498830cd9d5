// The TypeScript SDK held against the npm library `standardwebhooks`.
import assert from "node:assert/strict"
import { generateKeyPairSync, randomBytes, sign as ed25519 } from "node:crypto"
import test from "node:test"
import { Webhook } from "standardwebhooks"
import * as pcp from "./dist/index.js"

const EVENT = "evt_01JD0AAAAAAAAAAAAAAAAAAAA1"
const now = Math.floor(Date.now() / 1000)
const secret = () => `whsec_${randomBytes(32).toString("base64")}`
const headers = (signature, timestamp = now) => ({
  "webhook-id": EVENT, "webhook-timestamp": String(timestamp), "webhook-signature": signature,
})
const bodies = ["{}", '{"text":"忙しい 👩‍👩‍👧‍👦 שלום"}', "x".repeat(20000)].map((text) => Buffer.from(text))

test("they believe what we sign, with either secret", () => {
  for (const body of bodies.slice(0, 2)) {
    const [old, fresh] = [secret(), secret()]
    const made = headers(pcp.sign([fresh, old], EVENT, now, body))
    for (const one of [old, fresh]) new Webhook(one).verify(body.toString(), made)
    assert.throws(() => new Webhook(secret()).verify(body.toString(), made))
  }
})

test("we believe what they sign, and not a byte else", () => {
  for (const body of bodies) {
    const key = secret()
    const made = headers(new Webhook(key).sign(EVENT, new Date(now * 1000), body.toString()))
    const verifier = new pcp.Verifier([secret(), key])
    assert.equal(verifier.verify(made, body), EVENT)
    assert.throws(() => verifier.verify(made, Buffer.concat([body, Buffer.from(" ")])), pcp.Refused)
  }
})

test("a key pair is enough, and entries of another form are passed over", () => {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519")
  const point = Buffer.from(publicKey.export({ format: "jwk" }).x, "base64url").toString("base64")
  const verifier = new pcp.Verifier([], [`whpk_${point}`])
  const body = bodies[1]
  const made = ed25519(null, Buffer.concat([Buffer.from(`${EVENT}.${now}.`), body]), privateKey).toString("base64")
  assert.equal(verifier.verify(headers(`nocomma v9,AAAA ,, v1,$ v1a,${made}`), body), EVENT)
  assert.throws(() => verifier.verify(headers(`v1a,${made}`), bodies[0]), pcp.Refused)
})

test("the clock decides", () => {
  const [key, clock] = [secret(), new pcp.FakeClock(now)]
  const verifier = new pcp.Verifier([key], [], clock.read)
  const made = headers(pcp.sign([key], EVENT, now, bodies[0]))
  for (const [shift, good] of [[300, true], [301, false], [-300, true], [-301, false]]) {
    clock.now = now + shift
    if (good) verifier.verify(made, bodies[0])
    else assert.throws(() => verifier.verify(made, bodies[0]), pcp.Refused)
  }
})

test("empty and short secrets are refused", () => {
  for (const text of ["", "whsec_", `whsec_${Buffer.alloc(23).toString("base64")}`, "whsec_$$$"]) {
    assert.throws(() => new pcp.Verifier([text]))
  }
  assert.throws(() => new pcp.Verifier([]))
})
