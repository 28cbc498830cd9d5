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

checks = 0
children = []


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


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


def mockpost(base, assistant, folder):
    """Every message is told at each question, whatever was read before: one answer all the same."""
    port = int(os.environ["QUDAO_MOCKPOST_PORT"])
    ports = {name: str(free_port()) for name in ("SMTP", "FTP", "FTPS", "FTPS_IMPLICIT", "SFTP")}
    settings = {f"MOCKPOST_{name}_PORT": value for name, value in ports.items()}
    start(program("mockpost", "mockpost"), port, folder, MOCKPOST_HTTP_PORT=str(port),
          MOCKPOST_HOST="127.0.0.1", **settings)
    api = f"http://127.0.0.1:{port}/telegram"
    token = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    made = platform.channel(base, "telegram", assistant, {"api_url": api, "receive": "poll"}, {"bot_token": token})
    connected = platform.connect(base, made)
    is_true(connected["account"] == "@mockpost_bot", connected)
    sent = lambda: [message for message in ask(f"http://127.0.0.1:{port}/api/messages?channel=telegram&limit=200")
                    if message["direction"] == "outbound"]
    for number, text in enumerate(["Where is parcel seventeen?", "你好，在吗 😀", "And **number** eighteen?"], 1):
        ask(f"{api}/client/sendMessage", {"chat_id": 501, "text": text})
        until_true(lambda: number <= len(sent()), (text, sent()))
    time.sleep(4)
    texts = [message["body"] for message in sent()]
    is_true(len(texts) == 3, texts)
    is_true(platform.says("\n".join(texts), "parcel seventeen"), texts)
    return len(texts)


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
            url, headers = Relay.inbound, {"x-telegram-bot-api-secret-token": Relay.secret}
        else:
            url, headers = Relay.upstream + self.path, {}
            if self.path.endswith("/setWebhook"):
                told = json.loads(body)
                Relay.inbound, Relay.secret = told["url"], told["secret_token"]
                told["url"] = f"http://127.0.0.1:{self.server.server_address[1]}/inbound"
                body = json.dumps(told).encode()
        request = urllib.request.Request(url, data=body, headers={"content-type": "application/json", **headers})
        try:
            with platform.OPENER.open(request, timeout=30) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        if self.path == "/inbound":
            Relay.status = status
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


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
    relay = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["QUDAO_RELAY_PORT"])), Relay)
    Relay.upstream = f"http://127.0.0.1:{port}"
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    token = "220201543:BBHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
    settings = {"api_url": f"http://127.0.0.1:{relay.server_address[1]}", "receive": "webhook"}
    made = platform.channel(base, "telegram", assistant, settings, {"bot_token": token})
    platform.connect(base, made)
    is_true(Relay.secret and Relay.inbound.endswith(made["inbound_path"]), Relay.inbound)

    control, headers = f"http://127.0.0.1:{port}/api/v1/test", {"authorization": "Bearer k"}
    said = lambda: [answer for answer in ask(f"{control}/responses", None, headers)["responses"]
                    if answer["method"] == "sendMessage"]
    for number, text in enumerate(["Where is parcel nineteen?", "مرحبا **bold** <b>"], 1):
        delivered = ask(f"{control}/send_update?bot_token={token}", {"chat_id": 601, "text": text}, headers)
        is_true(delivered["ok"], delivered)
        until_true(lambda: number <= len(said()), (text, said()))
    is_true(platform.says(json.dumps(said(), ensure_ascii=False), "parcel nineteen"), said())
    # Another secret than the platform told is turned away.
    before = len(said())
    Relay.secret = "0" * 64
    ask(f"{control}/send_update?bot_token={token}", {"chat_id": 602, "text": "forged"}, headers)
    is_true(Relay.status == 401, Relay.status)
    time.sleep(2)
    is_true(len(said()) == before, said())
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
