"""The running platform: a tenant of our own, and channels on it."""

import json
import os
import time
import urllib.error
import urllib.request
import uuid

with open(os.environ["QUDAO_DEMO"]) as file:
    DEMO = json.load(file)
BASE = DEMO["base_url"]
MODEL = os.environ.get("QUDAO_PEER_MODEL", "echo")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def admin(method, path, body=None):
    headers = {"authorization": f"Bearer {DEMO['operator_key']}", "content-type": "application/json",
               "idempotency-key": str(uuid.uuid4())}
    if method == "GET":
        del headers["idempotency-key"]
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(BASE + path, data=data, method=method, headers=headers)
    try:
        with OPENER.open(request, timeout=90) as answer:
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}") from error


def ready():
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with OPENER.open(BASE + "/readyz", timeout=5) as answer:
                if all(model["state"] == "ready" for model in json.load(answer)["models"]):
                    return
        except OSError:
            pass
        time.sleep(0.3)
    raise SystemExit("the platform is not ready")


def tenant(model=MODEL):
    """A tenant with credits and an assistant: its path and the assistant's id."""
    ready()
    made = admin("POST", "/v1/tenants", {"name": "Peers", "currency": "USD", "locale": "en"})
    base = f"/v1/tenants/{made['id']}"
    admin("POST", f"{base}/credits", {"amount": "100.00", "note": "peers"})
    route = admin("POST", f"{base}/routes", {"name": "default", "models": [model]})
    assistant = {"name": "Mei", "route_id": route["id"], "system_prompt": "Answer in one short sentence."}
    return base, admin("POST", f"{base}/assistants", assistant)["id"]


def channel(base, kind, assistant, settings, secrets):
    body = {"kind": kind, "name": kind, "assistant_id": assistant, "settings": settings, "secrets": secrets}
    return admin("POST", f"{base}/channels", body)


def connect(base, made):
    return admin("POST", f"{base}/channels/{made['id']}/connect")


def says(text, asked):
    """Whether an answer is one: with the echo model, its question comes back."""
    return bool(text.strip()) if MODEL != "echo" else asked in text
