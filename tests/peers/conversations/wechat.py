"""An Official Account of WeChat on the platform, with wechatpy in WeChat's place: five seconds,
three tries, and an answer that takes longer."""

import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

from wechatpy.crypto import WeChatCrypto

sys.path.insert(0, "tests/peers")

import platform_under_test as platform

TOKEN, APP = "a-token-of-the-test", "wx-of-the-test"
KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
SLOW = os.environ.get("QUDAO_SLOW_MODEL", "echo-slow")
crypto = WeChatCrypto(TOKEN, KEY, APP)
checks = 0
# How long answers without words took, in seconds.
patience = []


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


def message(words, number, person="openid-ada"):
    return (f"<xml><ToUserName>gh_1</ToUserName><FromUserName>{person}</FromUserName>"
            f"<CreateTime>{int(time.time())}</CreateTime><MsgType>text</MsgType>"
            f"<Content>{words}</Content><MsgId>{number}</MsgId></xml>")


def ask(inbound, document, token=TOKEN):
    """What the platform answers within its five seconds: words, nothing, or a status."""
    nonce, stamp = secrets.token_hex(4), str(int(time.time()))
    sealed = ElementTree.fromstring(WeChatCrypto(token, KEY, APP).encrypt_message(document, nonce, stamp))
    query = urllib.parse.urlencode({"msg_signature": sealed.findtext("MsgSignature"), "timestamp": stamp,
                                    "nonce": nonce, "encrypt_type": "aes"})
    body = f"<xml><ToUserName>gh_1</ToUserName><Encrypt>{sealed.findtext('Encrypt')}</Encrypt></xml>"
    request = urllib.request.Request(f"{inbound}?{query}", data=body.encode(), headers={"content-type": "text/xml"})
    began = time.monotonic()
    try:
        with platform.OPENER.open(request, timeout=30) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code
    took = time.monotonic() - began
    is_true(took < 8, "the answer took too long", took)
    if text in ("", "success"):
        patience.append(took)
        return None
    envelope = ElementTree.fromstring(text)
    opened = crypto.decrypt_message(text, envelope.findtext("MsgSignature"), envelope.findtext("TimeStamp"),
                                    envelope.findtext("Nonce"))
    reply = ElementTree.fromstring(opened)
    is_true((reply.findtext("ToUserName"), reply.findtext("FromUserName")) == ("openid-ada", "gh_1"), opened)
    return reply.findtext("Content")


def answer_to(inbound, words, number):
    """As WeChat asks: three times at most, until there are words. Every answer."""
    answers = []
    while len(answers) < 3 and not any(answers):
        answers.append(ask(inbound, message(words, number)))
    return answers


def account(model):
    base, assistant = platform.tenant(model)
    made = platform.channel(base, "wechat", assistant, {"app_id": APP}, {"token": TOKEN, "aes_key": KEY})
    return base, platform.BASE + made["inbound_path"]


def main():
    base, inbound = account(platform.MODEL)
    first = answer_to(inbound, "Where is parcel seventeen?", 1)[-1]
    is_true(platform.says(first or "", "parcel seventeen"), first)
    # WeChat did not hear us and asks again: the same answer, and one turn.
    is_true(ask(inbound, message("Where is parcel seventeen?", 1)) == first)
    second = answer_to(inbound, "And number eighteen?", 2)[-1]
    is_true(platform.says(second or "", "number eighteen"), second)
    is_true(ask(inbound, message("x", 3), token="another") == 401)
    conversation = platform.admin("GET", f"{base}/conversations")["data"]
    is_true(len(conversation) == 1, conversation)

    # A model that takes longer than WeChat waits: nothing at first, then on the second or third try.
    base, inbound = account(SLOW)
    answers = answer_to(inbound, "one two three four", 11)
    is_true(answers[0] is None, answers)
    # Nothing comes before WeChat hangs up, though this machine may be slow once.
    is_true(min(patience) < 5, patience)
    is_true(answers[-1] and "one two three four" in answers[-1], answers)
    print(f"wechat: {checks} checks with wechatpy in WeChat's place; the slow answer came on try {len(answers)}")


main()
