"""A visitor of the widget, the tenant's site that signs who they are, and their mailbox."""

import json
import os
import re
import sys
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
ADA = mailbox.ADA


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
    print(f"identity: {len(ways)} ways to sign, 2 codes and a copy by mail; {mailbox.checks} checks")


main()
