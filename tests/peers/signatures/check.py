"""Holds the adapters' checks of signatures against those of the vendors' own libraries: what one
takes the other takes, and what one refuses the other refuses."""

import base64
import copy
import datetime
import hashlib
import hmac
import json
import subprocess
import sys

from pywa.utils import webhook_updates_validator
from slack_sdk.signature import SignatureVerifier

NOW = 1795867200
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SEED = "07" * 32

BODIES = [
    b"{}",
    b'{"type":"url_verification","challenge":"abc","events":[]}',
    '{"events":[],"text":"😀 مرحبا 你好","object":"page"}'.encode(),
    rb'{"events":[],"text":"\u00e4\u4f60","object":"page"}',
    b'{ "events" : [ ] ,\r\n "x" : 1.0 }\n',
    b'{"events":[],"x":"' + b"a" * 100_000 + b'"}',
]


class Lines:
    """A program that answers a line with a line."""

    def __init__(self, *command, cwd=None):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=cwd)

    def ask(self, call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended")
        return json.loads(line)


class Frozen:
    """A clock for Slack's verifier."""

    def now(self):
        return NOW


def mac(secret, body):
    return hmac.new(secret.encode(), body, hashlib.sha256)


class Slack:
    kind = "slack"
    secret = "signing_secret"
    timed = True

    def sign(self, body, at, secret):
        made = SignatureVerifier(secret).generate_signature(timestamp=str(at), body=body)
        return {"x-slack-request-timestamp": str(at), "x-slack-signature": made}

    def judge(self, body, headers, secret):
        return SignatureVerifier(secret, Frozen()).is_valid_request(body, headers)


class Meta:
    secret = "app_secret"
    timed = False

    def __init__(self, kind):
        self.kind = kind

    def sign(self, body, at, secret):
        return {"x-hub-signature-256": f"sha256={mac(secret, body).hexdigest()}"}

    def judge(self, body, headers, secret):
        given = headers.get("x-hub-signature-256")
        return given is not None and webhook_updates_validator(secret, body, given)


class Line:
    kind = "line"
    secret = "channel_secret"
    timed = False

    def __init__(self, node):
        self.node = node

    def sign(self, body, at, secret):
        return {"x-line-signature": base64.b64encode(mac(secret, body).digest()).decode()}

    def judge(self, body, headers, secret):
        return self.node.ask(
            {
                "op": "line",
                "body": base64.b64encode(body).decode(),
                "secret": secret,
                "signature": headers.get("x-line-signature"),
            }
        )


class Discord:
    kind = "discord"
    secret = None
    timed = True

    def __init__(self, node):
        self.node = node

    def made(self, body, at, secret):
        seed = SEED if secret == SECRET else hashlib.sha256(secret.encode()).hexdigest()
        encoded = base64.b64encode(body).decode()
        call = {"op": "discord-sign", "body": encoded, "seed": seed, "timestamp": str(at)}
        return self.node.ask(call)

    def sign(self, body, at, secret):
        made = self.made(body, at, secret)
        return {"x-signature-timestamp": str(at), "x-signature-ed25519": made["signature"]}

    def judge(self, body, headers, secret):
        # The library leaves the time to its user; the adapter keeps to the rule of the others.
        at = headers.get("x-signature-timestamp", "")
        fresh = at.isdigit() and abs(int(at) - NOW) <= 300
        return fresh and self.node.ask(
            {
                "op": "discord",
                "body": base64.b64encode(body).decode(),
                "key": self.made(b"", 0, SECRET)["key"],
                "signature": headers.get("x-signature-ed25519", ""),
                "timestamp": at,
            }
        )


def spoiled(platform, body):
    """Requests by their names, whether good or not."""
    good = platform.sign(body, NOW, SECRET)
    yield "good", body, good
    yield "another secret", body, platform.sign(body, NOW, "another")
    yield "cut", body[:-1], good
    yield "longer", body + b" ", good
    yield "nothing", b"", good
    yield "no header", body, {}
    for skew in (-301, -299, 299, 301) if platform.timed else ():
        yield f"skew {skew}", body, platform.sign(body, NOW + skew, SECRET)
    try:
        again = json.dumps(json.loads(body), ensure_ascii=False).encode()
        yield "written anew", again, good
    except ValueError:
        pass
    for name in good:
        for what, change in {
            "empty": lambda value: "",
            "shorter": lambda value: value[:-1],
            "longer": lambda value: value + "0",
            "other": lambda value: ("0" if value[-9] != "0" else "1").join([value[:-9], value[-8:]]),
        }.items():
            headers = copy.copy(good)
            headers[name] = change(headers[name])
            # Slack's library fails on a time that is no number; those of LINE and Discord decode
            # what is too short or too long by a letter. The adapters refuse all of it.
            own_rule = (platform.kind, name, what) in {
                ("slack", "x-slack-request-timestamp", "empty"),
                ("line", "x-line-signature", "shorter"),
                ("line", "x-line-signature", "longer"),
                ("discord", "x-signature-ed25519", "shorter"),
                ("discord", "x-signature-ed25519", "longer"),
            }
            if not own_rule:
                yield f"{name} {what}", body, headers


def main(adapter_program, node_program, judge_file, node_dir):
    adapter = Lines(adapter_program)
    node = Lines(node_program, judge_file, cwd=node_dir)
    platforms = [Slack(), *map(Meta, ("whatsapp", "messenger", "instagram")), Line(node), Discord(node)]
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).isoformat()
    compared = taken = 0
    for platform in platforms:
        settings = {}
        secrets = {}
        if platform.secret:
            secrets[platform.secret] = ["newer", SECRET]
        else:
            settings["public_key"] = platform.made(b"", 0, SECRET)["key"]
        for body in BODIES:
            for name, bytes_sent, headers in spoiled(platform, body):
                request = {"headers": headers, "body_base64": base64.b64encode(bytes_sent).decode()}
                call = {
                    "kind": platform.kind,
                    "op": "parse",
                    "settings": settings,
                    "secrets": secrets,
                    "now": now,
                    "request": request,
                }
                answer = adapter.ask(call)
                refused = "signature" in answer.get("reject", "")
                judged = bool(platform.judge(bytes_sent, headers, SECRET))
                if judged == refused:
                    sys.exit(f"{platform.kind}, {name}: the vendor's says {judged}, the adapter {answer}")
                compared += 1
                taken += judged
    if not 0 < taken < compared:
        sys.exit("nothing was compared")
    print(f"signatures: {compared} requests of {len(platforms)} platforms, {taken} of them good, judged alike")


if __name__ == "__main__":
    main(*sys.argv[1:])
