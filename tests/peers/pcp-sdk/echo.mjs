// The TypeScript SDK's adapter for the kit: an echo, as examples/partner/echo_channel.py.
import { createHash } from "node:crypto"
import { createServer } from "node:http"
import * as pcp from "./dist/index.js"

const secrets = process.env.PCP_SECRETS.split(" ")
const { PCP_BASE_URL: baseUrl, PCP_CHANNEL: channel, PCP_BEARER: bearer } = process.env
const client = new pcp.Client({ baseUrl, channel, bearer, secrets })
const adapter = new pcp.Adapter(client, new pcp.Verifier(secrets, [process.env.PCP_PUBLIC_KEY]))
const edits = new Map()

async function shown(part) {
  if (part.type !== "image") return pcp.text(pcp.words(part))
  const sha256 = createHash("sha256").update(await client.fetch(part)).digest("hex")
  return { type: "image", mime: part.mime, sha256 }
}

adapter.on("message.created", async (event) => {
  const [room, { id, parts }] = [event.conversation.external_id, event.data.message]
  void client.later(pcp.message(room, await Promise.all(parts.map(shown)), "echo", id))
  for (const type of ["message.delivered", "message.read"]) void client.later(pcp.report(type, room, { message_id: id }))
  for (const { items } of parts.filter((part) => part.type === "buttons")) {
    void client.later(pcp.report("button.pressed", room, { message_id: id, item_id: items[0].id, value: items[0].value }))
  }
  return pcp.sent(`echo-${id}`)
})
adapter.on("message.updated", (event) => {
  const { id } = event.data.message
  const show = () => {
    void client.later(pcp.report("message.updated", event.conversation.external_id, edits.get(id).data))
    edits.delete(id)
  }
  if (!edits.has(id)) setTimeout(show, 1000)
  edits.set(id, event)
})
adapter.on("handoff.requested", (event) => {
  for (const type of ["handoff.accepted", "handoff.returned"]) void client.later(pcp.report(type, event.conversation.external_id, {}))
})
createServer(pcp.listener(adapter)).listen(Number(process.env.PCP_PORT ?? 8098), "127.0.0.1")
