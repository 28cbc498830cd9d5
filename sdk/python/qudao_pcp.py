"""The partner channel protocol, PCP/1, for adapters in Python. One module, standard library only.

    adapter = Adapter(client, verifier)
    adapter.on("message.created", lambda event: show(event) or sent())
    serve(adapter, port=8098)

`Verifier` and `sign` follow Standard Webhooks: HMAC-SHA256 (`v1`) and ed25519 (`v1a`) over
`id.timestamp.body`, over the bytes as they came, against every key that is known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.server
import json
import queue
import secrets as entropy
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

VERSION = "2026-11-01"
TOLERANCE = 300
Clock = Callable[[], float]
Json = Dict[str, Any]


class Refused(Exception):
    """A request that is not believed. `status` is what to answer it with."""

    def __init__(self, message: str, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


class FakeClock:
    """A clock that stands still until it is moved: for tests of what is late, early or expired."""

    def __init__(self, now: float = 1_795_443_493.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def _secret(text: str) -> bytes:
    if not text.startswith("whsec_"):
        raise ValueError("a secret begins with whsec_")
    key = base64.b64decode(text[6:], validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError("a secret has 24 to 64 bytes")
    return key


def _mac(key: bytes, event_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def sign(secrets: Sequence[str], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one entry for each secret."""
    if not secrets:
        raise ValueError("no secret: an unsigned event is not sent")
    made = (_mac(_secret(text), event_id, str(timestamp), body) for text in secrets)
    return " ".join("v1," + base64.b64encode(mac).decode() for mac in made)


class Verifier:
    """Every key that is believed: shared secrets (`whsec_`) and public keys (`whpk_`)."""

    def __init__(self, secrets: Sequence[str], public_keys: Sequence[str] = (), clock: Clock = time.time) -> None:
        self._secrets = [_secret(text) for text in secrets]
        self._public = [_public_key(text) for text in public_keys]
        if not self._secrets and not self._public:
            raise ValueError("no key: nothing could be verified")
        self.clock = clock

    def add_secret(self, text: str) -> None:
        """Believes another secret beside those before: a rotation."""
        self._secrets = [_secret(text), *self._secrets][:4]

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """The event's id, if these very bytes are signed and fresh; else raises `Refused`."""
        given = {name.lower(): value for name, value in headers.items()}
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        event_id, timestamp, signature = (given.get(name, "") for name in names)
        if not event_id or not timestamp or not signature:
            raise Refused("a header of the signature is missing")
        if not 8 <= len(event_id) <= 64 or not all(c.isascii() and (c.isalnum() or c in "_-") for c in event_id):
            raise Refused("webhook-id has another form")
        is_number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12
        if not is_number or abs(self.clock() - int(timestamp)) > TOLERANCE:
            raise Refused("webhook-timestamp is no number, too old or too new")
        found = False
        for entry in signature.split(" ")[:16]:
            version, comma, text = entry.partition(",")
            try:
                made = base64.b64decode(text, validate=True) if comma else b""
            except (binascii.Error, ValueError):
                continue
            if version == "v1":
                for key in self._secrets:
                    found |= hmac.compare_digest(made, _mac(key, event_id, timestamp, body))
            elif version == "v1a":
                signed = f"{event_id}.{timestamp}.".encode() + body
                for point in self._public:
                    found |= _ed25519_verify(point, signed, made)
        if not found:
            raise Refused("no signature matches")
        return event_id


# Ed25519 after RFC 8032, for verifying alone: nothing here is secret, so its time may vary.
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_Point = Tuple[int, int, int, int]


def _add(a: _Point, b: _Point) -> _Point:
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    g, h = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    w, x, y, z = f - e, h - g, h + g, f + e
    return (w * x % _P, y * z % _P, x * y % _P, w * z % _P)


def _times(factor: int, point: _Point) -> _Point:
    total: _Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = _add(total, point)
        point, factor = _add(point, point), factor >> 1
    return total


def _same(a: _Point, b: _Point) -> bool:
    return not (a[0] * b[2] - b[0] * a[2]) % _P and not (a[1] * b[2] - b[1] * a[2]) % _P


def _decode(text: bytes) -> _Point:
    y = int.from_bytes(text, "little")
    sign_bit, y = y >> 255, y & (2**255 - 1)
    if len(text) != 32 or y >= _P:
        raise ValueError("not a point")
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign_bit):
        raise ValueError("not a point")
    x = x if x & 1 == sign_bit else _P - x
    return (x, y, 1, x * y % _P)


_BASE = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))


def _public_key(text: str) -> bytes:
    if not text.startswith("whpk_"):
        raise ValueError("a public key begins with whpk_")
    key = base64.b64decode(text[5:], validate=True)
    if _same(_times(8, _decode(key)), (0, 1, 1, 0)):
        raise ValueError("anything would verify under this key")
    return key


def _ed25519_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= _L:
        return False
    try:
        point, commitment = _decode(key), _decode(signature[:32])
    except ValueError:
        return False
    hashed = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % _L
    left = _times(int.from_bytes(signature[32:], "little"), _BASE)
    return _same(left, _add(commitment, _times(hashed, point)))


@dataclass
class Event:
    """An envelope. `data` is what its type carries."""

    id: str
    type: str
    data: Json = field(default_factory=dict)
    conversation: Optional[Json] = None
    sender: Optional[Json] = None
    seq: Optional[int] = None
    expires_at: Optional[str] = None
    time: Optional[str] = None
    raw: Json = field(default_factory=dict)

    @classmethod
    def read(cls, body: bytes) -> "Event":
        try:
            raw = json.loads(body)
            if raw["spec"] != "pcp/1":
                raise ValueError("another protocol")
            rest = {name: raw.get(name) for name in ("conversation", "sender", "seq", "expires_at", "time")}
            return cls(id=raw["id"], type=raw["type"], data=raw.get("data") or {}, raw=raw, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"the body is no event: {error}", 400) from error

    @property
    def room(self) -> str:
        return str((self.conversation or {}).get("external_id", ""))

    @property
    def message(self) -> Json:
        return self.data.get("message") or {}

    @property
    def parts(self) -> List[Json]:
        return list(self.message.get("parts") or [])

    def text(self) -> str:
        """The message in words: what is not known is told by its fallback."""
        return "\n\n".join(filter(None, map(words, self.parts)))

    def is_expired(self, now: float) -> bool:
        # fromisoformat of older Pythons reads neither `Z` nor nanoseconds.
        whole = (self.expires_at or "9999-01-01").rstrip("Z").partition(".")[0]
        return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() <= now


def words(part: Json) -> str:
    """A part in words."""
    found = (part.get(name) for name in ("text", "fallback_text", "caption", "alt", "name"))
    return str(next(filter(None, found), ""))


def message(room: str, parts: Sequence[Json], sender: str, reply_to: Optional[str] = None) -> Json:
    """What a person said, as an event for `Client.report`."""
    own = {"external_id": "m-" + entropy.token_hex(12), "parts": list(parts), "reply_to": reply_to}
    return report("message.created", room, {"message": own}, sender)


def report(type: str, room: str, data: Json, sender: str = "adapter") -> Json:
    """Any other event for `Client.report`."""
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    return {"spec": "pcp/1", "id": "evt_" + entropy.token_hex(16), "type": type, "time": now, "data": data,
            "conversation": {"external_id": room}, "sender": {"external_id": sender}}


def text(text: str) -> Json:
    return {"type": "text", "text": text}


def sent(external_id: Optional[str] = None) -> Json:
    return {"status": "sent", **({"external_message_id": external_id} if external_id else {})}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Reports events. Each conversation has a lane of its own, in which order is kept."""

    def __init__(self, base_url: str, channel: str, bearer: str, secrets: Sequence[str],
                 clock: Clock = time.time, timeout: float = 10.0, attempts: int = 8) -> None:
        self.url = f"{base_url.rstrip('/')}/v1/pcp/channels/{channel}"
        self.bearer, self.secrets, self.clock = bearer, list(secrets), clock
        self.timeout, self.attempts, self.stopped = timeout, attempts, False
        self._open = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({})).open
        self._lanes: Dict[str, "queue.Queue[Json]"] = {}
        self._lock = threading.Lock()

    def request(self, method: str, path: str, body: Optional[bytes] = None,
                headers: Optional[Mapping[str, str]] = None) -> Tuple[int, Mapping[str, str], bytes]:
        url = path if path.startswith("http") else f"{self.url}/{path}"
        own = {"content-type": "application/json"} if body is not None else {}
        if url.startswith(self.url):
            own["authorization"] = f"Bearer {self.bearer}"
        request = urllib.request.Request(url, body, {**own, **(headers or {})}, method=method)
        try:
            with self._open(request, timeout=self.timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()
        except OSError:
            return 0, {}, b""

    def report(self, event: Json) -> int:
        """Posts an event until it is taken or never will be; the last status."""
        body, status = json.dumps(event, ensure_ascii=False).encode(), 0
        for attempt in range(0 if self.stopped else self.attempts):
            now = int(self.clock())
            status, headers, _ = self.request("POST", "events", body, {
                "pcp-version": VERSION, "webhook-id": event["id"], "webhook-timestamp": str(now),
                "webhook-signature": sign(self.secrets, event["id"], now, body)})
            self.stopped |= status == 410
            if 200 <= status < 300 or status in (400, 409, 410, 413, 422):
                return status
            after = headers.get("retry-after") or ""
            time.sleep(float(after) if after.isdigit() else min(0.2 * 2**attempt, 60))
        return status

    def later(self, event: Json) -> None:
        """Reports an event after those of its conversation that came before it."""
        room = event["conversation"]["external_id"]
        with self._lock:
            if room not in self._lanes:
                self._lanes[room] = queue.Queue()
                threading.Thread(target=self._drain, args=(self._lanes[room],), daemon=True).start()
        self._lanes[room].put(event)

    def _drain(self, lane: "queue.Queue[Json]") -> None:
        while True:
            self.report(lane.get())

    def fetch(self, part: Json) -> bytes:
        """A file's bytes, by a fresh address if the one in the message is not good any more."""
        status, _, data = self.request("GET", part.get("url") or "")
        if status != 200 and part.get("upload_id"):
            status, _, fresh = self.request("POST", f"media/{part['upload_id']}", b"")
            status, _, data = self.request("GET", json.loads(fresh)["url"]) if status == 200 else (0, {}, b"")
        if status != 200 or hashlib.sha256(data).hexdigest() != part.get("sha256"):
            raise Refused("the file cannot be fetched", 503)
        return data


class Dedupe(Protocol):
    """Remembers events for a week; put a table with a unique key in its place."""

    def first(self, event_id: str, digest: bytes) -> Optional[bool]:
        """True the first time, False when it comes again, None with other bytes."""


class MemoryDedupe:
    def __init__(self) -> None: self._seen: Dict[str, bytes] = {}

    def first(self, event_id: str, digest: bytes) -> Optional[bool]:
        before = self._seen.setdefault(event_id, digest)
        return None if before != digest else before is digest


class Adapter:
    """Verifies, remembers, and hands events to what was registered for their type."""

    def __init__(self, client: Client, verifier: Verifier, dedupe: Optional[Dedupe] = None) -> None:
        self.client, self.verifier, self.dedupe = client, verifier, dedupe or MemoryDedupe()
        self._handlers: Dict[str, Callable[[Event], Optional[Json]]] = {}

    def on(self, type: str, handler: Callable[[Event], Optional[Json]]) -> None:
        self._handlers[type] = handler

    def handle(self, headers: Mapping[str, str], body: bytes) -> Tuple[int, Json]:
        """What to answer a request with."""
        try:
            signed = self.verifier.verify(headers, body)
            event = Event.read(body)
            if event.id != signed:
                raise Refused("id is not webhook-id", 400)
            first = self.dedupe.first(event.id, hashlib.sha256(body).digest())
            if first is None:
                raise Refused("this id was used for another event", 409)
            if event.type == "endpoint.verify":
                self.client.stopped = False
                return 200, {"challenge": event.data.get("challenge")}
            if event.type == "endpoint.key_rotated" and event.data.get("secret"):
                self.verifier.add_secret(event.data["secret"])
                self.client.secrets.insert(0, event.data["secret"])
            if not first or event.is_expired(self.verifier.clock()):
                return 200, {"status": "sent" if not first else "expired"}
            # An unknown type is acknowledged and ignored.
            handler = self._handlers.get(event.type, lambda _: None)
            return 200, handler(event) or {"status": "queued"}
        except Refused as refused:
            return refused.status, {"error": str(refused)}


def serve(adapter: Adapter, port: int, host: str = "127.0.0.1") -> None:
    """Serves an adapter until the process ends; for more than a trial use your own server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, answer = adapter.handle(dict(self.headers.items()), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        log_message = lambda *_: None  # noqa: E731

    http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()
