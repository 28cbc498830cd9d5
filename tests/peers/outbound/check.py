"""Holds what the adapters send against others' idea of it: Slack, LINE and Discord against the types
of the vendors' TypeScript packages, WhatsApp against a server that plays the Cloud API."""

import copy
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, "tests/peers")

from free_port import free_port

TEXT = {"type": "text", "format": "markdown", "text": "**Order 17** leaves today. 😀 مرحبا"}
PLAIN = {"type": "text", "format": "plain", "text": "1 < 2 & 3"}
BUTTONS = {
    "type": "buttons",
    "fallback_text": "",
    "items": [
        {"id": "b1", "label": "Track", "kind": "postback", "value": "track 17"},
        {"id": "b2", "label": "Shop", "kind": "url", "url": "https://shop.example/17"},
    ],
}
ROWS = [
    {"id": f"r{at}", "label": f"Row {at}", "description": "About it", "value": f"row {at}"}
    for at in range(10)
]
LIST = {"type": "list", "fallback_text": "", "label": "Choose", "rows": ROWS}
CARD = {
    "type": "card",
    "fallback_text": "",
    "title": "A box",
    "text": "Blue, and large enough.",
    "image_url": "https://shop.example/box.png",
    "items": BUTTONS["items"],
}
IMAGE = {"type": "image", "url": "https://shop.example/box.png", "mime": "image/png", "alt": "a box"}
PLACE = {"type": "location", "latitude": 52.5, "longitude": 13.4, "name": "Shop"}
PERSON = {"type": "contact", "name": "Ada", "phone": "+49 30 1"}
FILE = {"type": "file", "url": "https://shop.example/i.pdf", "mime": "application/pdf", "name": "i.pdf"}

COMMON = [[TEXT], [PLAIN], [TEXT, BUTTONS], [PLAIN, BUTTONS], [BUTTONS], [TEXT, LIST], [LIST], [CARD], [IMAGE]]

THREADS = {"slack": "C1/17.1", "line": "U1", "discord": "55", "whatsapp": "1061/4915"}
TYPES = {
    "slack": "SlackBody",
    "line": "messagingApi.PushMessageRequest",
    "discord": "RESTPostAPIChannelMessageJSONBody",
}
HEAD = """\
import type { ChatPostMessageArguments, KnownBlock } from "@slack/web-api";
import type { messagingApi } from "@line/bot-sdk";
import type { RESTPostAPIChannelMessageJSONBody } from "discord-api-types/v10";
type SlackBody = ChatPostMessageArguments & { blocks?: KnownBlock[] };
"""


class Adapter:
    def __init__(self, program):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe, text=True)

    def ask(self, **call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the adapter's program ended")
        return json.loads(line)

    def plans(self, kind, parts, settings=None):
        answer = self.ask(
            kind=kind,
            op="render",
            settings={"phone_number_id": "1061", **(settings or {})},
            secrets={"bot_token": ["xoxb-1"], "access_token": ["token"]},
            thread=THREADS[kind],
            message={"parts": parts},
        )
        if not answer.get("plans"):
            sys.exit(f"{kind} sends nothing for {parts}: {answer}")
        return answer["plans"]


def compile_errors(node_dir, name, bodies):
    """Which of the bodies TypeScript refuses, by their places."""
    lines = [HEAD]
    for at, (kind, body) in enumerate(bodies):
        words = json.dumps(body, ensure_ascii=False)
        lines.append(f"export const b{at}: {TYPES[kind]} = {words};\n")
    source = pathlib.Path(node_dir, f"{name}.ts")
    source.write_text("".join(lines))
    tsc = pathlib.Path(node_dir, "node_modules/.bin/tsc")
    options = "--noEmit --strict --skipLibCheck --module esnext --target es2022 --moduleResolution bundler"
    done = subprocess.run(
        [tsc, *options.split(), source.name], cwd=node_dir, capture_output=True, text=True
    )
    refused = {}
    first = HEAD.count("\n") + 1
    for line in done.stdout.splitlines():
        if line.startswith(f"{name}.ts("):
            place = int(line.split("(")[1].split(",")[0]) - first
            refused.setdefault(place, line)
        elif "error TS" in line and not line.startswith(" "):
            sys.exit(f"TypeScript cannot judge: {line}")
    if (done.returncode == 0) != (not refused):
        sys.exit(f"TypeScript ended with {done.returncode}: {done.stdout[:2000]} {done.stderr[:500]}")
    return refused


def judge_types(adapter, node_dir):
    bodies = []
    for kind in TYPES:
        own = [[PLACE]] if kind == "line" else []
        for parts in COMMON + own:
            bodies += [(kind, json.loads(plan["body"])) for plan in adapter.plans(kind, parts)]
    refused = compile_errors(node_dir, "bodies", bodies)
    if refused:
        place, line = next(iter(refused.items()))
        sys.exit(f"{line}\n{json.dumps(bodies[place])}")
    # A judge that takes anything is none.
    faults = {
        "slack": lambda body: body.pop("channel"),
        "line": lambda body: body["messages"][0].update(type="hologram"),
        "discord": lambda body: body.update(nonce=["x"]),
    }
    spoiled = []
    for kind, fault in faults.items():
        body = copy.deepcopy(next(body for known, body in bodies if known == kind))
        fault(body)
        spoiled.append((kind, body))
    missed = set(range(len(spoiled))) - set(compile_errors(node_dir, "spoiled", spoiled))
    if missed:
        sys.exit(f"TypeScript takes what is wrong: {[spoiled[at][0] for at in missed]}")
    return len(bodies)


def judge_whatsapp(adapter, mockpost, work):
    ports = {name: str(free_port()) for name in ("HTTP", "SMTP", "FTP", "FTPS", "FTPS_IMPLICIT", "SFTP")}
    known = {f"MOCKPOST_{name}_PORT": port for name, port in ports.items()}
    env = {**os.environ, **known, "MOCKPOST_HOST": "127.0.0.1", "MOCKPOST_STRICT_AUTH": "1"}
    env["MOCKPOST_LOG_LEVEL"] = "warning"
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([mockpost], env=env, cwd=work, stdout=quiet, stderr=quiet)
    try:
        base = f"http://127.0.0.1:{ports['HTTP']}/whatsapp"
        for _ in range(300):
            if server.poll() is not None:
                sys.exit("mockpost ended")
            try:
                urllib.request.urlopen(f"{base}/webhook", timeout=5)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        sent = 0
        for parts in COMMON + [[PLACE], [PERSON], [FILE]]:
            for plan in adapter.plans("whatsapp", parts, {"api_url": base}):
                status, body = post(plan)
                answer = {"status": status, "body": body}
                outcome = adapter.ask(
                    kind="whatsapp", op="classify", plan_purpose=plan["purpose"], response=answer
                )["outcome"]
                if status != 200 or "wamid." not in outcome:
                    sys.exit(f"mockpost answers {status} {body}; that is {outcome} to the adapter")
                sent += 1
        plan["headers"] = [pair for pair in plan["headers"] if pair[0] != "authorization"]
        status, body = post(plan)
        outcome = adapter.ask(
            kind="whatsapp", op="classify", plan_purpose="send", response={"status": status, "body": body}
        )["outcome"]
        if status != 401 or "Auth" not in outcome:
            sys.exit(f"without a token mockpost answers {status} {body}; that is {outcome}")
        return sent
    finally:
        server.terminate()
        server.wait()


def post(plan):
    body = plan["body"].encode()
    request = urllib.request.Request(plan["url"], body, dict(plan["headers"]), method=plan["method"])
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def main(adapter_program, node_dir, mockpost, work):
    adapter = Adapter(adapter_program)
    typed = judge_types(adapter, node_dir)
    sent = judge_whatsapp(adapter, mockpost, work)
    print(
        f"outbound: {typed} bodies of Slack, LINE and Discord fit the vendors' types, "
        f"{sent} messages of WhatsApp were taken by mockpost"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
