"""The Python SDK held against the library `standardwebhooks`: what one signs the other believes."""

import base64
import json
import os
import sys
import unittest
from datetime import datetime, timezone

from standardwebhooks import Webhook, WebhookVerificationError

import qudao_pcp as pcp

BODIES = [b"{}", '{"text":"忙しい 👩‍👩‍👧‍👦 שלום"}'.encode(), b'{"a": 1,\n "b": "\\u0000"}', b"x" * 20_000]
NOW = int(datetime.now(timezone.utc).timestamp())
EVENT = "evt_01JD0AAAAAAAAAAAAAAAAAAAA1"


def secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def headers(signature: str, timestamp: int = NOW) -> dict:
    return {"webhook-id": EVENT, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


class Oracle(unittest.TestCase):
    def test_they_believe_what_we_sign_with_either_secret(self) -> None:
        for body in BODIES[:2]:
            old, new = secret(), secret()
            made = headers(pcp.sign([new, old], EVENT, NOW, body))
            for one in (old, new):
                Webhook(one).verify(body.decode(), made)
            with self.assertRaises(WebhookVerificationError):
                Webhook(secret()).verify(body.decode(), made)

    def test_we_believe_what_they_sign(self) -> None:
        for body in BODIES:
            key = secret()
            signature = Webhook(key).sign(EVENT, datetime.fromtimestamp(NOW, timezone.utc), body.decode())
            self.assertEqual(signature, pcp.sign([key], EVENT, NOW, body))
            verifier = pcp.Verifier([secret(), key])
            self.assertEqual(verifier.verify(headers(signature), body), EVENT)
            for wrong in (body + b" ", body[:-1]):
                with self.assertRaises(pcp.Refused):
                    verifier.verify(headers(signature), wrong)

    def test_a_list_with_entries_of_another_form_is_read_by_us(self) -> None:
        key = secret()
        made = headers("nocomma v9,AAAA ,, v1,$ v1a,AAAA " + pcp.sign([key], EVENT, NOW, b"{}"))
        self.assertEqual(pcp.Verifier([key]).verify(made, b"{}"), EVENT)

    def test_the_clock_decides_and_stands_still_where_it_is_told_to(self) -> None:
        key, clock = secret(), pcp.FakeClock(NOW)
        verifier = pcp.Verifier([key], clock=clock)
        made = headers(pcp.sign([key], EVENT, NOW, b"{}"))
        for shift, good in ((300, True), (301, False), (-300, True), (-301, False)):
            clock.now = NOW + shift
            if good:
                verifier.verify(made, b"{}")
            else:
                self.assertRaises(pcp.Refused, verifier.verify, made, b"{}")

    def test_empty_and_short_secrets_are_refused(self) -> None:
        for text in ("", "whsec_", "whsec_" + base64.b64encode(b"x" * 23).decode(), "sk_x"):
            self.assertRaises(ValueError, pcp.Verifier, [text])
        self.assertRaises(ValueError, pcp.Verifier, [])
        self.assertRaises(ValueError, pcp.sign, [], EVENT, NOW, b"{}")

    def test_the_published_values_of_ed25519_verify(self) -> None:
        # RFC 8032, 7.1, tests 1 and 2.
        for key, message, signature in (
            ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
             "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
             "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
            ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
             "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
             "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
        ):
            point, text, made = map(bytes.fromhex, (key, message, signature))
            self.assertTrue(pcp._ed25519_verify(point, text, made))
            self.assertFalse(pcp._ed25519_verify(point, text + b"x", made))
            self.assertFalse(pcp._ed25519_verify(point, text, made[:-1] + bytes([made[-1] ^ 1])))
        weak = "whpk_" + base64.b64encode(bytes([1]) + bytes(31)).decode()
        self.assertRaises(ValueError, pcp.Verifier, [], [weak])

    def test_an_adapter_answers_each_event_once(self) -> None:
        key, seen = secret(), []
        client = pcp.Client("http://127.0.0.1:1", "chn_1", "pck_test_x", [key])
        adapter = pcp.Adapter(client, pcp.Verifier([key]))
        adapter.on("message.created", lambda event: seen.append(event.text()) or pcp.sent("x1"))

        def handle(event: dict) -> tuple:
            body = json.dumps(event).encode()
            made = {**headers(""), "webhook-id": event["id"]}
            made["webhook-signature"] = pcp.sign([key], event["id"], NOW, body)
            return adapter.handle(made, body)

        event = pcp.message("room", [{"type": "poll", "fallback_text": "Tea?"}], "u1")
        self.assertEqual(handle(event), (200, {"status": "sent", "external_message_id": "x1"}))
        self.assertEqual(handle(event)[0], 200)
        self.assertEqual(handle({**event, "data": {}})[0], 409)
        self.assertEqual(seen, ["Tea?"])
        self.assertEqual(handle(pcp.report("weather.changed", "room", {}))[0], 200)
        verify = pcp.report("endpoint.verify", "room", {"challenge": "c1"})
        self.assertEqual(handle(verify), (200, {"challenge": "c1"}))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-q"])
