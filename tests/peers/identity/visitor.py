"""A visitor of the widget, the tenant's site that signs who they are, and their mailbox."""

import hashlib
import hmac
import http.server
import json
import os
import queue
import re
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

sys.path[:0] = ["tests/peers", "tests/peers/mail"]

import check as mailbox
import platform_under_test as platform
from check import is_true

SHOP = "https://shop.example"
SECRET = "a secret that only the shop's server knows"
APP_SECRET = "the-app-secret-of-the-shop"
ADA = mailbox.ADA
PHONE = "+8613800138000"


class GraphApi(http.server.BaseHTTPRequestHandler):
    """As much of Meta's Graph API as a code needs: messages are taken, or fail as often as told."""

    sent, failures = queue.Queue(), 0

    @classmethod
    def start(cls):
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["GRAPH_PORT"])), cls)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{os.environ['GRAPH_PORT']}"

    @classmethod
    def next(cls):
        """The next message that was taken, other than receipts."""
        return cls.sent.get(timeout=60)

    @classmethod
    def says(cls, url, text):
        """Somebody writes from the number, as Meta would tell it."""
        message = {"from": PHONE[1:], "id": f"wamid.{uuid.uuid4().hex}", "timestamp": str(int(time.time())),
                   "type": "text", "text": {"body": text}}
        value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1055"}, "messages": [message],
                 "contacts": [{"profile": {"name": "Ada"}, "wa_id": PHONE[1:]}]}
        body = json.dumps({"object": "whatsapp_business_account",
                           "entry": [{"id": "9", "changes": [{"field": "messages", "value": value}]}]}).encode()
        signature = "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", "x-hub-signature-256": signature}
        with platform.OPENER.open(urllib.request.Request(url, data=body, headers=headers), timeout=30) as answer:
            is_true(answer.status == 200)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        cls = type(self)
        fails, cls.failures = 0 < cls.failures, max(0, cls.failures - 1)
        if not fails and body.get("status") != "read":
            cls.sent.put({"path": self.path, "token": self.headers["authorization"], "body": body})
        answer = json.dumps({"messaging_product": "whatsapp", "messages": [{"id": f"wamid.{uuid.uuid4().hex}"}]})
        self.send_response(503 if fails else 200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}" if fails else answer.encode())

    def log_message(self, *_):
        pass


class Visitor:
    def __init__(self, key):
        self.key, self.token = key, None
        status, given = self.ask("token", {})
        is_true(status == 200, given)
        self.token = given["token"]
        self.widget = given["widget"]

    def ask(self, end, body):
        headers = {"origin": SHOP, "content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        url = f"{platform.BASE}/v1/widget/{self.key}/{end}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST", headers=headers)
        try:
            with platform.OPENER.open(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")

    def say(self, text):
        status, body = self.ask("messages", {"id": uuid.uuid4().hex, "text": text})
        is_true(status == 202, body)

    def prove(self, server, address):
        """Asks for a code, reads the mail, shows it."""
        before = len(mailbox.mails_of(server, ADA)) if server else 0
        status, asked = self.ask("claims", {"email": address, "locale": "en"})
        is_true(status == 202 and asked["expires_in"] == 600, asked)
        return asked["id"], before


def pem(key, private=False):
    if private:
        form = serialization.PrivateFormat.PKCS8
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def code_of(server, count):
    return re.search(r"\b(\d{6})\b", arrived(server, count)["Subject"]).group(1)


def arrived(server, count):
    """The newest mail, once there are more than so many."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        mails = mailbox.mails_of(server, ADA)
        if count < len(mails):
            return mails[-1]
        time.sleep(0.5)
    raise SystemExit("no mail came")


def contacts(base):
    return [one for one in platform.admin("GET", f"{base}/contacts")["data"] if not one.get("merged_into")]


def main():
    base, assistant = platform.tenant()
    curve, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    settings = {"origins": [SHOP], "site_keys": [pem(curve), pem(edwards)]}
    made = platform.channel(base, "web", assistant, settings, {"site_secret": SECRET})
    key = made["public_key"]

    # One customer, three devices, three ways to sign.
    claims = {"sub": "customer-17", "aud": key, "exp": int(time.time()) + 600, "name": "Ada"}
    ways = [(SECRET, "HS256"), (pem(curve, private=True), "ES256"), (pem(edwards, private=True), "EdDSA")]
    visitors = []
    for secret, algorithm in ways:
        visitor = Visitor(key)
        visitor.say(f"hello, signed with {algorithm}")
        token = jwt.encode(claims, secret, algorithm=algorithm)
        status, body = visitor.ask("identify", {"token": token})
        is_true(status == 204, algorithm, body)
        visitors.append(visitor)
    is_true(len(contacts(base)) == 1, contacts(base))
    stranger = Visitor(key)
    stranger.say("hello, nobody knows me")
    forged = [
        jwt.encode(claims, "another secret that is as long as it", algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode({**claims, "exp": int(time.time()) - 1}, SECRET, algorithm="HS256"),
        jwt.encode({**claims, "aud": "wk_another"}, SECRET, algorithm="HS256"),
        jwt.encode(claims, pem(ec.generate_private_key(ec.SECP256R1()), private=True), algorithm="ES256"),
    ]
    for token in forged:
        status, body = stranger.ask("identify", {"token": token})
        is_true(status == 401 and body["code"] == "invalid_credentials", status, body)
    is_true(len(contacts(base)) == 2)

    # The first code is asked for while the mail server is away, and comes when it is back.
    is_true(stranger.widget["transcript_mail"] is True, stranger.widget)
    claim, _ = stranger.prove(None, ADA)
    time.sleep(1)
    server = mailbox.Server(smtp=int(os.environ["MAIL_PORT"]))
    code = code_of(server, 0)
    first = mailbox.mails_of(server, ADA)[0]
    is_true(first["From"] == "web <no-reply@qudao.example>" and first["Auto-Submitted"] == "auto-generated", first.items())
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    is_true(stranger.ask(f"claims/{claim}/confirm", {"code": wrong})[0] == 422)
    is_true(visitors[0].ask(f"claims/{claim}/confirm", {"code": code})[0] == 422, "another visitor's")
    is_true(stranger.ask(f"claims/{claim}/confirm", {"code": code})[0] == 204)
    is_true(stranger.ask(f"claims/{claim}/confirm", {"code": code})[0] == 422, "a second time")

    # The same address from a known device: the stranger and the customer are one.
    claim, before = visitors[0].prove(server, ADA.upper())
    status, body = visitors[0].ask(f"claims/{claim}/confirm", {"code": code_of(server, before)})
    is_true(status == 204, body)
    is_true(len(contacts(base)) == 1, contacts(base))

    # A copy of the conversation, with what was said as text.
    visitors[1].say("<b>bold</b> & 😀")
    before = len(mailbox.mails_of(server, ADA))
    status, body = visitors[1].ask("transcript", {"to": ADA, "locale": "zh"})
    is_true(status == 202, body)
    copy = arrived(server, before)
    plain, html = (copy.get_body((kind,)).get_content() for kind in ("plain", "html"))
    is_true("<b>bold</b> & 😀" in plain and "对话" in copy["Subject"], copy["Subject"], plain)
    is_true("&lt;b&gt;bold&lt;/b&gt;" in html and "<b>" not in html, html)
    # Nobody is sent mail in numbers.
    statuses = [visitors[2].ask("transcript", {"to": ADA})[0] for _ in range(3)]
    is_true(429 in statuses, statuses)
    server.stop()

    by_phone(base, assistant, visitors[0])
    print(f"identity: {len(ways)} ways to sign, 2 codes and a copy by mail, 2 codes by WhatsApp; "
          f"{mailbox.checks} checks")


def by_phone(base, assistant, visitor):
    """A number is proven by codes that WhatsApp brings: as a template, and as plain words."""
    status, body = visitor.ask("claims", {"phone": PHONE})
    is_true(status == 409 and "WhatsApp" in body["detail"], status, body)
    settings = {"business_use": "a shop's service", "phone_number_id": "1055", "api_url": GraphApi.start()}
    secrets = {"access_token": "the-token", "app_secret": APP_SECRET, "verify_token": "v"}
    cloud = platform.channel(base, "whatsapp", assistant, settings, secrets)

    # Somebody wrote from that number: a customer of their own, until the code shows who it is.
    GraphApi.says(f"{platform.BASE}{cloud['inbound_path']}", "hello from my phone")
    is_true("hello from my phone" in GraphApi.next()["body"]["text"]["body"])
    is_true(len(contacts(base)) == 2, contacts(base))

    # Meta fails once: the code comes all the same.
    GraphApi.failures = 1
    status, asked = visitor.ask("claims", {"phone": "+86 138-0013-8000", "locale": "zh"})
    is_true(status == 202, asked)
    sent = GraphApi.next()
    is_true((sent["path"], sent["token"]) == ("/v24.0/1055/messages", "Bearer the-token"), sent)
    message = sent["body"]
    is_true((message["messaging_product"], message["to"], message["type"]) == ("whatsapp", PHONE[1:], "text"), message)
    is_true("验证码" in message["text"]["body"], message)
    code = re.search(r"(?<!\d)(\d{6})(?!\d)", message["text"]["body"]).group(1)
    is_true(visitor.ask(f"claims/{asked['id']}/confirm", {"code": code})[0] == 204)
    is_true(visitor.ask(f"claims/{asked['id']}/confirm", {"code": code})[0] == 422, "a second time")

    is_true(len(contacts(base)) == 1, contacts(base))

    # With a template of the tenant's, codes reach those who never wrote.
    template = {**settings, "code_template": "sign_in", "code_language": "zh_CN"}
    platform.admin("PATCH", f"{base}/channels/{cloud['id']}", {"settings": template})
    status, asked = visitor.ask("claims", {"phone": "+44 7700 900123"})
    is_true(status == 202, asked)
    form = GraphApi.next()["body"]["template"]
    is_true((form["name"], form["language"]["code"]) == ("sign_in", "zh_CN"), form)
    codes = [value["text"] for part in form["components"] for value in part["parameters"]]
    is_true(len(codes) == 2 and codes[0] == codes[1], form)
    is_true(visitor.ask(f"claims/{asked['id']}/confirm", {"code": codes[0]})[0] == 204)
    GraphApi.server.shutdown()


main()
