"""The Matrix adapter as an application service of Synapse: what a person does in a room arrives, the
answers appear, and what Synapse repeats is known again."""

import base64
import http.server
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, "tests/peers")

from free_port import free_port

OWN = "@ai_support:test.local"
AS_TOKEN, HS_TOKEN = "as-token-of-the-test-0001", "hs-token-of-the-test-0001"
checks = 0


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


class Adapter:
    def __init__(self, program, homeserver):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe, text=True)
        self.lock = threading.Lock()
        self.channel = {
            "kind": "matrix",
            "settings": {"homeserver_url": homeserver, "user_id": OWN, "registration_id": "qudao"},
            "secrets": {"as_token": [AS_TOKEN], "hs_token": [HS_TOKEN]},
        }

    def ask(self, op, **call):
        with self.lock:
            self.process.stdin.write(json.dumps({**self.channel, "op": op, **call}) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())


def perform(plan):
    """A request that the adapter wants made: its status and its body."""
    body = base64.b64decode(plan["body_base64"]) or None
    request = urllib.request.Request(plan["url"], data=body, method=plan["method"], headers=dict(plan["headers"]))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Inbound(http.server.BaseHTTPRequestHandler):
    """The channel's inbound address. HTTP/1.1 with a length, or Synapse takes no answer for one."""

    protocol_version = "HTTP/1.1"
    adapter, events, failing, tries = None, queue.Queue(), 0, []

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        path, _, query = self.path.partition("?")
        request = {
            "method": self.command, "tail": path.lstrip("/"), "query": query,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body_base64": base64.b64encode(self.rfile.read(length)).decode(),
        }
        parsed = self.adapter.ask("parse", request=request)
        events = parsed.get("events", [])
        ids = [event["id"] for event in events]
        if Inbound.failing and any("Message" in event["body"] for event in events):
            Inbound.failing -= 1
            Inbound.tries.append((path, ids))
            return self.reply(500, b"{}")
        if events:
            Inbound.tries.append((path, ids))
        for event in events:
            if event["acknowledge"]:
                event["acknowledged"] = perform(event["acknowledge"])[0]
            self.events.put(event)
        if "reject" in parsed:
            return self.reply(404 if "nothing at this address" in parsed["reject"] else 401, b"{}")
        self.reply(parsed["answer"]["status"], parsed["answer"]["body"].encode())

    do_GET = do_PUT = do_POST = handle_any

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def heard(what):
    """The next event whose body says this; others are passed over."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            event = Inbound.events.get(timeout=1)
        except queue.Empty:
            continue
        if what in event["body"]:
            return event
    raise SystemExit(f"no event with {what}")


class Person:
    """Somebody with a client."""

    def __init__(self, base, name):
        self.base, self.token, self.since, self.count = base, None, None, 0
        body = {"username": name, "password": "pw-of-the-test", "auth": {"type": "m.login.dummy"}}
        answer = self.call("POST", "register", body)
        self.token, self.id = answer["access_token"], answer["user_id"]

    def call(self, method, path, body=None, raw=None, kind="application/json", prefix="/_matrix/client/v3/"):
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        headers = {"content-type": kind}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.base + prefix + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=40) as answer:
            return json.loads(answer.read())

    def send(self, room, content, kind="m.room.message"):
        self.count += 1
        path = f"rooms/{urllib.parse.quote(room)}/send/{kind}/t{self.count}"
        return self.call("PUT", path, content)["event_id"]

    def say(self, room, words, **more):
        return self.send(room, {"msgtype": "m.text", "body": words, **more})

    def see(self, room, wanted, place="timeline"):
        """The first thing in the room, from here on, that is wanted."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            query = {"timeout": "5000", **({"since": self.since} if self.since else {})}
            news = self.call("GET", "sync?" + urllib.parse.urlencode(query))
            self.since = news["next_batch"]
            events = news.get("rooms", {}).get("join", {}).get(room, {}).get(place, {}).get("events", [])
            for event in events:
                if wanted(event):
                    return event
        raise SystemExit("the person did not see it")


def start_synapse(folder, port, inbound):
    python = [sys.executable, "-m", "synapse.app.homeserver"]
    config = f"{folder}/homeserver.yaml"
    subprocess.run([*python, "--server-name", "test.local", "--config-path", config, "--generate-config",
                    "--report-stats=no"], check=True, capture_output=True, cwd=folder)
    registration = {
        "id": "qudao", "url": inbound, "as_token": AS_TOKEN, "hs_token": HS_TOKEN,
        "sender_localpart": "ai_support", "rate_limited": False, "receive_ephemeral": True,
        "namespaces": {"users": [{"exclusive": True, "regex": "@ai_support:test\\.local"}], "aliases": [], "rooms": []},
    }
    limit = {"per_second": 1000, "burst_count": 1000}
    own = {
        "listeners": [{"port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": False,
                       "resources": [{"names": ["client"], "compress": False}]}],
        "trusted_key_servers": [], "app_service_config_files": [f"{folder}/qudao.yaml"],
        "enable_registration": True, "enable_registration_without_verification": True,
        "rc_message": limit, "rc_registration": limit, "rc_joins": {"local": limit, "remote": limit},
        "database": {"name": "sqlite3", "args": {"database": f"{folder}/synapse.db"}},
    }
    # JSON is YAML.
    for name, content in [("qudao.yaml", registration), ("own.yaml", own)]:
        with open(f"{folder}/{name}", "w") as file:
            json.dump(content, file)
    log = open(f"{folder}/out", "wb")
    server = subprocess.Popen([*python, "--config-path", config, "--config-path", f"{folder}/own.yaml"],
                              stdout=log, stderr=log, cwd=folder)
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_matrix/client/versions", timeout=5).read()
            return server
        except OSError:
            if server.poll() is not None or until < time.monotonic():
                raise SystemExit("Synapse does not start: " + open(f"{folder}/out").read()[-3000:])
            time.sleep(0.2)


def connect(adapter):
    plans = adapter.ask("connect")["plans"]
    answers = [(plan["purpose"], *perform(plan)) for plan in plans]
    is_true([(name, status) for name, status, _ in answers][1:] == [("whoami", 200), ("ping", 200)], answers)
    # Synapse makes the sender of a registration file itself.
    is_true(answers[0][1] == 200 or b"M_USER_IN_USE" in answers[0][2], answers)
    is_true(json.loads(answers[1][2])["user_id"] == OWN, answers)


def talk(adapter, ada):
    room = ada.call("POST", "createRoom", {"invite": [OWN], "is_direct": True, "preset": "private_chat"})["room_id"]
    invited = heard('"invite"')
    is_true(invited["acknowledged"] == 200 and invited["sender"]["external_id"] == ada.id, invited)

    # The first two tries are refused: Synapse comes again with the same transaction.
    Inbound.failing, Inbound.tries = 2, []
    asked = ada.say(room, "Hello 😀 مرحبا")
    message = heard("Message")
    is_true("Hello 😀 مرحبا" in message["body"] and message["id"] == asked, message)
    is_true(message["thread"] == room and not message["group"], message)
    is_true(len(Inbound.tries) == 3 and len(set(map(str, Inbound.tries))) == 1, Inbound.tries)

    said = {"parts": [{"type": "text", "format": "markdown", "text": "It **left** today."}], "reply_to": asked}
    plans = adapter.ask("render", thread=room, message=said)["plans"]
    status, body = perform(plans[0])
    is_true(status == 200, body)
    seen = ada.see(room, lambda event: event["sender"] == OWN and event["type"] == "m.room.message")
    is_true(seen["content"]["body"] == "It left today.", seen)
    is_true("<strong>left</strong>" in seen["content"]["formatted_body"], seen)
    is_true(seen["content"]["m.relates_to"]["m.in_reply_to"]["event_id"] == asked, seen)
    # The same plan again is the same message.
    is_true(perform(plans[0]) == (status, body) and json.loads(body)["event_id"] == seen["event_id"])
    outcome = adapter.ask("classify", response={"status": status, "body": body.decode()})["outcome"]
    is_true(outcome == f'Sent {{ external_id: Some("{seen["event_id"]}") }}', outcome)

    # What the assistant says itself does not come back as a question.
    edited = ada.say(room, "* better", **{"m.new_content": {"msgtype": "m.text", "body": "better"},
                                         "m.relates_to": {"rel_type": "m.replace", "event_id": asked}})
    change = heard("")
    while change["id"] != edited:
        is_true("It left" not in change["body"], change)
        change = heard("")
    is_true("Edited" in change["body"] and asked in change["body"], change)

    sign = ada.send(room, {"m.relates_to": {"rel_type": "m.annotation", "event_id": seen["event_id"], "key": "👍"}}, "m.reaction")
    is_true("👍" in heard("Reaction")["body"])
    ada.call("PUT", f"rooms/{urllib.parse.quote(room)}/redact/{urllib.parse.quote(sign)}/r1", {})
    is_true(sign in heard("Deleted")["body"])

    thread = ada.say(room, "aside", **{"m.relates_to": {"rel_type": "m.thread", "event_id": asked}})
    aside = heard("aside")
    is_true((aside["id"], aside["thread"]) == (thread, f"{room} {asked}"), aside)
    said = {"parts": [{"type": "text", "text": "In the thread."}], "reply_to": thread}
    status, body = perform(adapter.ask("render", id="out_2", thread=aside["thread"], message=said)["plans"][0])
    inside = ada.see(room, lambda event: event["content"].get("body") == "In the thread.")
    is_true(inside["event_id"] == json.loads(body)["event_id"], body)
    relation = {"rel_type": "m.thread", "event_id": asked, "is_falling_back": False,
                "m.in_reply_to": {"event_id": thread}}
    is_true(inside["content"]["m.relates_to"] == relation, inside)
    return room


def rest(adapter, ada, room):
    # A file: what the person uploaded is what is fetched.
    picture = os.urandom(5000)
    address = ada.call("POST", "upload?filename=a.png", raw=picture, kind="image/png", prefix="/_matrix/media/v3/")["content_uri"]
    ada.send(room, {"msgtype": "m.image", "body": "a.png", "url": address, "info": {"mimetype": "image/png", "size": 5000}})
    is_true(address in heard("Image")["body"])
    status, body = perform(adapter.ask("fetch", external_id=address)["plans"][0])
    is_true((status, body) == (200, picture), status)

    ada.see(room, lambda event: True)
    is_true(perform(adapter.ask("typing", thread=room)["plans"][0])[0] == 200)
    typing = ada.see(room, lambda event: event["type"] == "m.typing" and event["content"]["user_ids"], "ephemeral")
    is_true(typing["content"]["user_ids"] == [OWN], typing)

    # An answer that grows: a message, its edit, and the whole in its place.
    status, body = perform(adapter.ask("preview", thread=room, text="It")["plans"][0])
    shown = json.loads(body)["event_id"]
    is_true(perform(adapter.ask("preview", thread=room, text="It left", preview_id=shown)["plans"][0])[0] == 200)
    new = ada.see(room, lambda event: "m.new_content" in event["content"])
    is_true(new["content"]["m.new_content"]["body"] == "It left", new)
    is_true(new["content"]["m.relates_to"] == {"rel_type": "m.replace", "event_id": shown}, new)
    whole = {"parts": [{"type": "text", "format": "markdown", "text": "It left **today**."}]}
    final = adapter.ask("render", id="out_3", thread=room, message=whole, preview_id=shown)["plans"][0]
    is_true(perform(final)[0] == 200)
    new = ada.see(room, lambda event: "m.new_content" in event["content"])
    is_true(new["content"]["m.new_content"]["body"] == "It left today.", new)
    is_true(new["content"]["m.relates_to"]["event_id"] == shown, new)

    # Somebody writes, somebody has read.
    ada.call("PUT", f"rooms/{urllib.parse.quote(room)}/typing/{urllib.parse.quote(ada.id)}", {"typing": True, "timeout": 5000})
    is_true(heard("Typing")["sender"]["external_id"] == ada.id)
    ada.call("POST", f"rooms/{urllib.parse.quote(room)}/receipt/m.read/{urllib.parse.quote(shown)}", {})
    is_true(shown in heard("Receipt")["body"])

    # Put out of the room, nothing more can be said there.
    ada.call("POST", f"rooms/{urllib.parse.quote(room)}/kick", {"user_id": OWN})
    heard("Unreachable")
    status, body = perform(adapter.ask("preview", thread=room, text="Still there?")["plans"][0])
    outcome = adapter.ask("classify", response={"status": status, "body": body.decode()})["outcome"]
    is_true(status == 403 and "Blocked" in outcome, outcome)


def doors(adapter, inbound):
    wrong = urllib.request.Request(f"http://127.0.0.1:{inbound}/_matrix/app/v1/transactions/x", data=b'{"events":[]}',
                                   method="PUT", headers={"authorization": "Bearer other"})
    try:
        urllib.request.urlopen(wrong, timeout=10)
        is_true(False, "another token was taken")
    except urllib.error.HTTPError as error:
        is_true(error.code == 401)


def main(program):
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
    port, inbound = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    adapter = Inbound.adapter = Adapter(program, base)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", inbound), Inbound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        synapse = start_synapse(folder, port, f"http://127.0.0.1:{inbound}")
        try:
            connect(adapter)
            ada = Person(base, "ada")
            room = talk(adapter, ada)
            rest(adapter, ada, room)
            doors(adapter, inbound)
        finally:
            synapse.terminate()
            synapse.wait()
    print(f"matrix: {checks} checks with Synapse")


if __name__ == "__main__":
    main(sys.argv[1])
