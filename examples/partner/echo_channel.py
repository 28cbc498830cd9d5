"""A partner's adapter: an echo in the place of a messaging platform. Set what `qudao-conform keys`
prints, or the keys of your channel, and run it with PYTHONPATH=sdk/python."""

import hashlib
import os
import threading

from qudao_pcp import Adapter, Client, Verifier, Event, message, report, sent, serve, text, words

secrets = os.environ["PCP_SECRETS"].split()
public_keys = os.environ.get("PCP_PUBLIC_KEY", "").split()
client = Client(os.environ["PCP_BASE_URL"], os.environ["PCP_CHANNEL"], os.environ["PCP_BEARER"], secrets)
adapter = Adapter(client, Verifier(secrets, public_keys))
edits = {}


def shown(part):
    if part["type"] == "image":
        return {"type": "image", "mime": part["mime"], "sha256": hashlib.sha256(client.fetch(part)).hexdigest()}
    return text(words(part))


def on_message(event: Event):
    """Here your platform would show the message; the echo sends it back as a person's."""
    own = event.message["id"]
    client.later(message(event.room, [shown(part) for part in event.parts], "echo", reply_to=own))
    for kind in ("message.delivered", "message.read"):
        client.later(report(kind, event.room, {"message_id": own}))
    for part in event.parts:
        if part["type"] == "buttons":
            item = part["items"][0]
            pressed = {"message_id": own, "item_id": item["id"], "value": item.get("value")}
            client.later(report("button.pressed", event.room, pressed))
    return sent(f"echo-{own}")


def on_edit(event: Event):
    """Shows the newest words, no oftener than once a second."""
    own = event.message["id"]
    if edits.setdefault(own, event) is event:
        threading.Timer(1, lambda: client.later(report("message.updated", event.room, edits.pop(own).data))).start()
    edits[own] = event


def on_handoff(event: Event):
    client.later(report("handoff.accepted", event.room, {}))
    client.later(report("handoff.returned", event.room, {}))


adapter.on("message.created", on_message)
adapter.on("message.updated", on_edit)
adapter.on("handoff.requested", on_handoff)
if __name__ == "__main__":
    serve(adapter, int(os.environ.get("PCP_PORT", "8098")))
