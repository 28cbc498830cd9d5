"""A bot of the platform on two emulators of the Bot API."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, "tests/peers")

import platform_under_test as platform
from free_port import free_port

checks = 0
children = []


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


def start(command, port, folder, **environment):
    log = open(os.path.join(folder, f"{port}.log"), "w")
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder,
                             start_new_session=True)
    children.append(child)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            raise SystemExit(f"{command[0]} ended: {open(log.name).read()[-2000:]}")
        time.sleep(0.2)
    raise SystemExit(f"{command[0]} does not listen")


def ask(url, body=None, headers=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json", **(headers or {})})
    with platform.OPENER.open(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def until_true(look, what):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.3)
    raise SystemExit(f"not seen in time: {what}")


def program(name, *words):
    return [os.path.abspath(f"target/tools/{name}/bin/{words[0]}"), *words[1:]]


class Relay(http.server.BaseHTTPRequestHandler):
    """Between the platform and an emulator that forgets the secret header: both ways, and it alone
    knows the secret that the platform told."""

    protocol_version = "HTTP/1.1"
    upstream, inbound, secret, status = "", "", "", 0

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/inbound":
            url, headers = self.__class__.inbound, {"x-telegram-bot-api-secret-token": self.__class__.secret}
        else:
            url, headers = self.__class__.upstream + self.path, {}
            if self.path.endswith("/setWebhook"):
                told = json.loads(body)
                self.__class__.inbound, self.__class__.secret = told["url"], told["secret_token"]
                told["url"] = f"http://127.0.0.1:{self.server.server_address[1]}/inbound"
                body = json.dumps(told).encode()
        request = urllib.request.Request(url, data=body, headers={"content-type": "application/json", **headers})
        try:
            with platform.OPENER.open(request, timeout=30) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        if self.path == "/inbound":
            self.__class__.status = status
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def relay_to(upstream, port):
    """A relay of its own, which listens."""
    relay = type("RelayTo", (Relay,), {"upstream": upstream})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), relay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return relay


def is_turned_away(relay, said, forge):
    """Another secret than the platform told opens nothing."""
    before, relay.secret = len(said()), "0" * 64
    forge()
    until_true(lambda: relay.status == 401, "a forged update is turned away")
    time.sleep(2)
    is_true(len(said()) == before, said())


def mockpost(base, assistant, folder):
    port, relay_port = free_port(), int(os.environ["QUDAO_MOCKPOST_PORT"])
    ports = {name: str(free_port()) for name in ("SMTP", "FTP", "FTPS", "FTPS_IMPLICIT", "SFTP")}
    settings = {f"MOCKPOST_{name}_PORT": value for name, value in ports.items()}
    start(program("mockpost", "mockpost"), port, folder, MOCKPOST_HTTP_PORT=str(port),
          MOCKPOST_HOST="127.0.0.1", **settings)
    relay = relay_to(f"http://127.0.0.1:{port}", relay_port)
    token = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    ask(f"http://127.0.0.1:{port}/api/apps", {"name": "p1", "creds": {"telegram_token": token}})
    settings = {"api_url": f"http://127.0.0.1:{relay_port}/telegram", "receive": "webhook"}
    made = platform.channel(base, "telegram", assistant, settings, {"bot_token": token})
    connected = platform.connect(base, made)
    is_true(connected["account"] == "@mockpost_bot", connected)
    said = lambda: [message for message in ask(f"http://127.0.0.1:{port}/api/messages?channel=telegram&limit=200")
                    if message["direction"] == "outbound"]
    tell = lambda text: ask(f"http://127.0.0.1:{port}/telegram/client/sendMessage", {"chat_id": 501, "text": text},
                            {"X-MockPost-App": "p1"})
    for number, text in enumerate(["Where is parcel seventeen?", "你好，在吗 😀", "And **number** eighteen?"], 1):
        tell(text)
        until_true(lambda: number <= len(said()), (text, said()))
    texts = sorted(message["body"] for message in said())
    is_true(len(texts) == 3 and platform.says("\n".join(texts), "parcel seventeen"), texts)
    is_turned_away(relay, said, lambda: tell("forged"))
    return len(texts)


def redis_server(folder):
    """Debian's redis-tools has the server's program under another name alone."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        found = os.path.join(folder, "redis-server")
        os.symlink("/usr/bin/redis-check-rdb", found)
    return found


def telemelya(base, assistant, folder):
    redis, moto, port = free_port(), free_port(), free_port()
    start([redis_server(folder), "--port", str(redis), "--bind", "127.0.0.1", "--save", ""], redis, folder)
    start(program("moto", "moto_server", "-H", "127.0.0.1", "-p", str(moto)), moto, folder)
    start(program("telemelya", "telemelya-server"), port, folder, MOCK_SERVER_HOST="127.0.0.1",
          MOCK_SERVER_PORT=str(port), REDIS_URL=f"redis://127.0.0.1:{redis}/0", AUTH_KEYS="k",
          MINIO_ENDPOINT=f"127.0.0.1:{moto}", STRICT_EDIT="true")
    relay_port = int(os.environ["QUDAO_RELAY_PORT"])
    relay = relay_to(f"http://127.0.0.1:{port}", relay_port)
    token = "220201543:BBHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    settings = {"api_url": f"http://127.0.0.1:{relay_port}", "receive": "webhook"}
    made = platform.channel(base, "telegram", assistant, settings, {"bot_token": token})
    platform.connect(base, made)
    is_true(relay.secret and relay.inbound.endswith(made["inbound_path"]), relay.inbound)

    control, headers = f"http://127.0.0.1:{port}/api/v1/test", {"authorization": "Bearer k"}
    said = lambda: [answer for answer in ask(f"{control}/responses", None, headers)["responses"]
                    if answer["method"] == "sendMessage"]
    for number, text in enumerate(["Where is parcel nineteen?", "مرحبا **bold** <b>"], 1):
        delivered = ask(f"{control}/send_update?bot_token={token}", {"chat_id": 601, "text": text}, headers)
        is_true(delivered["ok"], delivered)
        until_true(lambda: number <= len(said()), (text, said()))
    is_true(platform.says(json.dumps(said(), ensure_ascii=False), "parcel nineteen"), said())
    is_turned_away(relay, said, lambda: ask(f"{control}/send_update?bot_token={token}",
                                            {"chat_id": 602, "text": "forged"}, headers))
    return len(said())


def main():
    folder = tempfile.mkdtemp(prefix="qudao-telegram.")
    try:
        base, assistant = platform.tenant()
        counts = mockpost(base, assistant, folder), telemelya(base, assistant, folder)
        print(f"telegram: {checks} checks; {counts[0]} answers on mockpost, {counts[1]} on telemelya, "
              f"by {platform.MODEL}")
    finally:
        for child in children:
            os.killpg(child.pid, signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


main()
