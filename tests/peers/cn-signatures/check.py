"""Our adapters of Feishu, WeCom and WeChat against wechatpy, @wecom/crypto and Lark's SDK."""

import base64
import hashlib
import json
import secrets
import subprocess
import sys
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree

from wechatpy.crypto import WeChatCrypto
from wechatpy.exceptions import InvalidSignatureException
from wechatpy.utils import check_signature
from wechatpy.enterprise.crypto import WeChatCrypto as WorkCrypto

WORDS = ["hello", "你好，订单 17 到哪了？", "مرحبا 😀 <b>&amp;]]></b>", "x" * 2000, " "]
checks = 0


class Lines:
    """A program that answers one line of JSON with another."""

    def __init__(self, *command):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, **call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{self.process.args[0]} ended"
        return json.loads(line)


ours = Lines(sys.argv[1])
node = Lines("node", sys.argv[2])


def is_true(fact, *shown):
    global checks
    checks += 1
    if not fact:
        raise SystemExit(f"check {checks} failed: {shown}")


def asked(**call):
    answer = node.ask(**call)
    is_true("ok" in answer, call["do"], answer)
    return answer["ok"]


def new_key():
    # A key is 43 characters of base64, of which the last holds two bits that mean nothing.
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(letters) for _ in range(43))


def channel(kind, key, token):
    if kind == "wecom":
        return {"kind": kind, "settings": {"corp_id": "ww1", "agent_id": 1},
                "secrets": {"token": [token], "aes_key": [key], "secret": ["s"]}}
    return {"kind": kind, "settings": {"app_id": "wx1"},
            "secrets": {"token": [token], "aes_key": [key], "app_secret": ["s"]}}


def message(words):
    words = words.replace("]]>", "]]]]><![CDATA[>")
    return (f"<xml><ToUserName><![CDATA[gh]]></ToUserName><FromUserName><![CDATA[ada]]></FromUserName>"
            f"<CreateTime>{int(time.time())}</CreateTime><MsgType><![CDATA[text]]></MsgType>"
            f"<Content><![CDATA[{words}]]></Content><MsgId>{secrets.randbits(60)}</MsgId></xml>")


def posted(encrypt, signature, timestamp, nonce):
    query = {"msg_signature": signature, "timestamp": timestamp, "nonce": nonce, "encrypt_type": "aes"}
    body = f"<xml><ToUserName><![CDATA[gh]]></ToUserName><Encrypt><![CDATA[{encrypt}]]></Encrypt></xml>"
    return {"method": "POST", "query": urllib.parse.urlencode(query), "body": body}


def heard(call, request, words):
    answer = ours.ask(op="parse", request=request, **call)
    is_true("events" in answer, answer)
    # Rust writes a text's quotes and escapes; the JSON of the words is near enough to look for them.
    body = answer["events"][0]["body"]
    is_true("Message" in body or not words.strip(), body)
    if words.isalpha():
        is_true(words in body, body)


def refused(call, request):
    answer = ours.ask(op="parse", request=request, **call)
    is_true("reject" in answer, answer)


def tencent(kind):
    receiver = "ww1" if kind == "wecom" else "wx1"
    library = WorkCrypto if kind == "wecom" else WeChatCrypto
    for words in WORDS:
        key, token, nonce = new_key(), secrets.token_hex(8), secrets.token_hex(5)
        call, timestamp, plain = channel(kind, key, token), str(int(time.time())), message(words)

        # What wechatpy seals and signs.
        sealed = ElementTree.fromstring(library(token, key, receiver).encrypt_message(plain, nonce, timestamp))
        encrypt, signature = sealed.findtext("Encrypt"), sealed.findtext("MsgSignature")
        heard(call, posted(encrypt, signature, timestamp, nonce), words)
        is_true(asked(do="wecomDecrypt", key=key, encrypt=encrypt) == {"message": plain, "id": receiver})

        # What WeCom's own library does.
        encrypt = asked(do="wecomEncrypt", key=key, message=plain, id=receiver)
        signature = asked(do="wecomSign", token=token, timestamp=timestamp, nonce=nonce, encrypt=encrypt)
        request = posted(encrypt, signature, timestamp, nonce)
        heard(call, request, words)

        # Nobody takes what was changed.
        flipped = bytearray(base64.b64decode(encrypt))
        flipped[-1] ^= 1
        bent = base64.b64encode(flipped).decode()
        refused(call, posted(bent, signature, timestamp, nonce))
        refused(call, posted(encrypt, signature, str(int(timestamp) + 1), nonce))
        other = asked(do="wecomEncrypt", key=key, message=plain, id="somebody")
        other_sign = asked(do="wecomSign", token=token, timestamp=timestamp, nonce=nonce, encrypt=other)
        refused(call, posted(other, other_sign, timestamp, nonce))
        # Validly signed, but with a byte turned within: the padding or the receiver is wrong then.
        bent_sign = asked(do="wecomSign", token=token, timestamp=timestamp, nonce=nonce, encrypt=bent)
        refused(call, posted(bent, bent_sign, timestamp, nonce))

        if kind == "wechat" and words.strip():
            passive(call, request, key, token, words)


def passive(call, request, key, token, words):
    """Our answer within the answer, opened by both libraries."""
    said = {"parts": [{"type": "text", "text": words}]}
    answer = ours.ask(op="passive", request=request, thread="ada", message=said, **call)["answer"]
    is_true(answer is not None and answer["status"] == 200, answer)
    document = ElementTree.fromstring(answer["body"])
    field = document.findtext
    opened = WeChatCrypto(token, key, "wx1").decrypt_message(
        answer["body"], field("MsgSignature"), field("TimeStamp"), field("Nonce"))
    opened = opened.decode() if isinstance(opened, bytes) else opened
    reply = ElementTree.fromstring(opened)
    is_true(reply.findtext("Content") == words, reply.findtext("Content"))
    is_true((reply.findtext("ToUserName"), reply.findtext("FromUserName")) == ("ada", "gh"))
    theirs = asked(do="wecomDecrypt", key=key, encrypt=field("Encrypt"))
    is_true(theirs == {"message": opened, "id": "wx1"}, theirs)
    sign = asked(do="wecomSign", token=token, timestamp=field("TimeStamp"), nonce=field("Nonce"),
                 encrypt=field("Encrypt"))
    is_true(sign == field("MsgSignature"), sign)
    try:
        WeChatCrypto("another", key, "wx1").decrypt_message(
            answer["body"], field("MsgSignature"), field("TimeStamp"), field("Nonce"))
        is_true(False, "another token opened it")
    except InvalidSignatureException:
        pass


def echoes():
    key, token, nonce, timestamp = new_key(), "t", "n", str(int(time.time()))
    # WeCom: sealed. WeChat: as it is, signed with the token alone.
    echo = asked(do="wecomEncrypt", key=key, message="1616140317555161061", id="ww1")
    sign = asked(do="wecomSign", token=token, timestamp=timestamp, nonce=nonce, encrypt=echo)
    query = {"msg_signature": sign, "timestamp": timestamp, "nonce": nonce, "echostr": echo}
    get = {"method": "GET", "query": urllib.parse.urlencode(query)}
    answer = ours.ask(op="parse", request=get, **channel("wecom", key, token))
    is_true(answer["answer"]["body"] == "1616140317555161061", answer)
    is_true(WorkCrypto(token, key, "ww1").check_signature(sign, timestamp, nonce, echo) is not None)

    sign = hashlib.sha1("".join(sorted([token, timestamp, nonce])).encode()).hexdigest()
    check_signature(token, sign, timestamp, nonce)
    query = {"signature": sign, "timestamp": timestamp, "nonce": nonce, "echostr": "5904"}
    get = {"method": "GET", "query": urllib.parse.urlencode(query)}
    answer = ours.ask(op="parse", request=get, **channel("wechat", key, token))
    is_true(answer["answer"]["body"] == "5904", answer)


def feishu():
    for words in WORDS:
        key, nonce, timestamp = secrets.token_urlsafe(12), secrets.token_hex(6), str(int(time.time()))
        call = {"kind": "feishu", "settings": {"app_id": "cli_1"},
                "secrets": {"app_secret": ["s"], "encrypt_key": [key]}}
        event = {"schema": "2.0",
                 "header": {"event_id": secrets.token_hex(8), "event_type": "im.message.receive_v1", "app_id": "cli_1"},
                 "event": {"sender": {"sender_id": {"open_id": "ou_1"}, "sender_type": "user"},
                           "message": {"message_id": "om_1", "chat_id": "oc_1", "chat_type": "p2p",
                                       "message_type": "text", "content": json.dumps({"text": words})}}}
        encrypt = asked(do="larkEncrypt", key=key, message=json.dumps(event))
        is_true(json.loads(asked(do="larkDecrypt", key=key, encrypt=encrypt)) == event)
        body = json.dumps({"encrypt": encrypt}, separators=(",", ":"))
        sign = lambda body: hashlib.sha256((timestamp + nonce + key + body).encode()).hexdigest()
        headers = {"x-lark-request-timestamp": timestamp, "x-lark-request-nonce": nonce,
                   "x-lark-signature": sign(body)}
        request = {"headers": headers, "body": body}
        heard(call, request, words)
        theirs = lambda headers: node.ask(do="larkEvent", key=key, body=json.loads(body), headers=headers,
                                          kind="im.message.receive_v1").get("ok")
        is_true(theirs(headers) is not None)
        for wrong in [{"x-lark-signature": "0" * 64}, {"x-lark-request-nonce": "other"},
                      {"x-lark-request-timestamp": str(int(timestamp) + 1)}]:
            is_true(theirs({**headers, **wrong}) is None)
            refused(call, {"headers": {**headers, **wrong}, "body": body})
        refused(call, {"headers": headers, "body": body + " "})
        refused(call, {"body": body})

        test = {"type": "url_verification", "challenge": secrets.token_hex(8), "token": "t"}
        sealed = {"encrypt": asked(do="larkEncrypt", key=key, message=json.dumps(test))}
        mine = ours.ask(op="parse", request={"body": json.dumps(sealed)}, **call)["answer"]["body"]
        theirs = asked(do="larkChallenge", key=key, body=sealed)
        is_true(theirs["isChallenge"] and json.loads(mine) == theirs["challenge"], mine, theirs)


tencent("wecom")
tencent("wechat")
echoes()
feishu()
print(f"cn-signatures: {checks} checks with wechatpy, @wecom/crypto and Lark's SDK")
