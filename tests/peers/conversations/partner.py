"""A reseller's afternoon: keys, an adapter by the SDK, the kit's report, and then a person whom a model
answers. `Kiosk` is the adapter; it mirrors what the kit wants to see, and keeps what a person would."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, "tests/peers")
sys.path.insert(0, "sdk/python")

import platform_under_test as platform
from qudao_pcp import Adapter, Client, Event, Verifier, message, sent, serve, text, words

KIT = "target/debug/qudao-conform"
PORT = int(os.environ["QUDAO_PARTNER_PORT"])
URL = f"http://127.0.0.1:{PORT}/pcp"


class Kiosk:
    """Shows messages, as the network of a reseller would."""

    def __init__(self, client, verifier):
        self.client, self.shown = client, []
        self.adapter = Adapter(client, verifier)
        self.adapter.on("message.created", self.show)

    def show(self, event: Event):
        if event.room.startswith("conform-"):
            mirrored = [text(words(part)) for part in event.parts]
            self.client.later(message(event.room, mirrored, "mirror", reply_to=event.message["id"]))
        else:
            self.shown.append((event.room, event.text()))
        return sent(f"shown-{event.message['id']}")

    def say(self, room, what):
        return self.client.report(message(room, [text(what)], sender="ada"))


def variables():
    """The kit's own key, which signs its report."""
    lines = subprocess.run([KIT, "keys"], check=True, capture_output=True, text=True).stdout.splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
    return {name: value.strip("'") for name, value in pairs}


def report(channel, keys, path):
    """Has the kit try the adapter in the platform's place, and sign what it saw."""
    told = {**keys, "PCP_CHANNEL": channel, "PCP_ADAPTER_URL": URL}
    listen = keys["PCP_BASE_URL"].removeprefix("http://")
    command = [KIT, "--role", "adapter", "--only", "S,T", "--listen", listen, "--sign", path]
    tried = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True)
    if tried.returncode != 0:
        raise SystemExit(tried.stdout + tried.stderr)


def until_true(look, what):
    until = time.monotonic() + 60
    while not look():
        if until < time.monotonic():
            raise SystemExit(f"not seen in time: {what}")
        time.sleep(0.2)


def pcp(client, method, path, body):
    status, _, answer = client.request(method, path, json.dumps(body).encode())
    if status != 200:
        raise SystemExit(f"{method} {path}: {status} {answer.decode()}")
    return json.loads(answer)


def main():
    base, assistant = platform.tenant()
    made = platform.channel(base, "partner", assistant, {}, {})
    own = platform.admin("POST", f"{base}/channels/{made['id']}/partner-keys")
    keys = variables()
    # The kit stands in the platform's place first, at an address that is free and with secrets of its own.
    keys["PCP_BASE_URL"] = f"http://127.0.0.1:{os.environ['QUDAO_KIT_PORT']}"
    secrets = keys["PCP_SECRETS"].split()
    client = Client(keys["PCP_BASE_URL"], made["id"], keys["PCP_BEARER"], secrets)
    kiosk = Kiosk(client, Verifier([*secrets, own["signing_secret"]], [keys["PCP_PUBLIC_KEY"]]))
    threading.Thread(target=serve, args=(kiosk.adapter, PORT), daemon=True).start()
    with tempfile.NamedTemporaryFile() as file:
        report(made["id"], keys, file.name)
        signed = json.load(file)

    # From here on it is the platform.
    client.url, client.bearer = f"{platform.BASE}/v1/pcp/channels/{made['id']}", own["bearer_key"]
    client.secrets = [own["signing_secret"]]
    endpoint = {"endpoint_url": URL, "transport": "webhook", "public_key": keys["PCP_PUBLIC_KEY"]}
    platform.admin("PUT", f"{base}/channels/{made['id']}/partner-endpoint", endpoint)
    if pcp(client, "POST", "endpoint:verify", {})["verified"] is not True:
        raise SystemExit("the endpoint did not show that it is the partner's")
    if pcp(client, "POST", "conformance", signed)["sandbox"] is not False:
        raise SystemExit("the report did not lift the channel")
    asked = ["Where is parcel seventeen?", "你好，在吗 😀"]
    for number, what in enumerate(asked, 1):
        if kiosk.say("counter-1", what) not in (200, 202):
            raise SystemExit(f"not taken: {what}")
        until_true(lambda: number <= len(kiosk.shown), (what, kiosk.shown))
    said = "\n".join(answer for _, answer in kiosk.shown)
    if not platform.says(said, "parcel seventeen"):
        raise SystemExit(f"no answer: {kiosk.shown}")
    usage = platform.admin("GET", f"{base}/usage")["data"]
    if len(usage) != len(asked) or any(line["model"] != platform.MODEL for line in usage):
        raise SystemExit(f"charged otherwise than once each: {usage}")
    print(f"partner: from keys to live, {len(asked)} answers by {platform.MODEL}, each charged once")


main()
