"""Generated requests against a running platform, held against its own description.

usage: run.py DEMO_JSON [-n CASES] [--draw]

Six runs of schemathesis with different credentials. Their seeds are fixed, so that a change fails for
what it changed; with --draw the last takes a new one, which is printed. Exits 1 if any answer was a 5xx,
or differed from /openapi.json in status, media type, header, schema or the credentials that it asks for;
the failures are printed with the request that shows them.
"""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).parent
SEED = 20260828
# Of all runs together; fewer mean that the description lost endpoints, or the runs their time.
LEAST_CASES = 5000
# Seconds for one run, far more than it takes.
PATIENCE = 900

CONFIG = """
# The checks in checks.py tell which refusals of a fitting request are in order; by its status alone
# that cannot be told.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "400", "401", "402", "403", "404", "409", "415", "422", "429", "503"]

[parameters]
{parameters}
"""


SHOP = "https://shop.example"


def call(base, method, path, key=None, body=None, more=None):
    headers = {"content-type": "application/json", "idempotency-key": os.urandom(8).hex(), **(more or {})}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers=headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


class World:
    """A tenant of our own with one of everything, so that requests get past the first 404."""

    def __init__(self, demo):
        self.base, operator = demo["base_url"], demo["operator_key"]
        self.operator = operator
        tenant = call(self.base, "POST", "/v1/tenants", operator, {"name": "Generated", "currency": "USD"})
        self.tenant_id = tenant["id"]
        own = f"/v1/tenants/{self.tenant_id}"
        call(self.base, "POST", f"{own}/credits", operator, {"amount": "1000"})
        models = {"name": "echo", "models": [os.environ.get("QUDAO_ECHO_MODEL", "echo-fast")]}
        self.route_id = call(self.base, "POST", f"{own}/routes", operator, models)["id"]
        words = {"name": "Echo", "system_prompt": "Repeat.", "route_id": self.route_id}
        self.assistant_id = call(self.base, "POST", f"{own}/assistants", operator, words)["id"]
        settings = {"origins": [SHOP], "uploads": True}
        web = {"name": "Web", "kind": "web", "assistant_id": self.assistant_id, "settings": settings}
        channel = call(self.base, "POST", f"{own}/channels", operator, web)
        self.channel_id, self.key = channel["id"], channel["public_key"]
        scopes = {"name": "Generated", "scopes": ["chat", "admin"]}
        self.tenant_key = call(self.base, "POST", f"{own}/api-keys", operator, scopes)["key"]
        self.visitor = call(self.base, "POST", f"/v1/web/{self.key}/session", body={})["token"]
        shop = {"origin": SHOP}
        self.widget = call(self.base, "POST", f"/v1/widget/{self.key}/token", body={}, more=shop)["token"]

    def config(self):
        names = ("tenant_id", "route_id", "assistant_id", "channel_id", "key")
        parameters = [f'"path.{name}" = "{getattr(self, name)}"' for name in names]
        return CONFIG.format(parameters="\n".join(parameters))


def run(demo, name, credential, cases, seed, more=()):
    # What a run closes or revokes must not spoil the others.
    world = World(demo)
    credential = credential and getattr(world, credential)
    with tempfile.TemporaryDirectory() as folder:
        return attempt(world, pathlib.Path(folder), name, credential, cases, seed, more)


def attempt(world, folder, name, credential, cases, seed, more):
    config = folder / "schemathesis.toml"
    config.write_text(world.config() if credential else CONFIG.format(parameters=""))
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config),
        "run", f"{world.base}/openapi.json",
        "--checks", "all", "--continue-on-failure", "--max-examples", str(cases), "--seed", str(seed),
        # One thread: what the seed draws is then what it drew yesterday.
        "--workers", "1", "--request-timeout", "20", "--no-shrink", "--no-color",
        # How long it takes to think of a request tells of this machine and not of the API.
        "--suppress-health-check", "too_slow", *more,
    ]
    if credential:
        command += ["--header", f"Authorization: Bearer {credential}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "checks.py"), "NO_PROXY": "*"}
    begun = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    took = time.monotonic() - begun
    found = re.search(r"([\d,]+) generated", done.stdout)
    generated = int(found[1].replace(",", "")) if found else 0
    failures = re.search(r"(\d+) unique failures?", done.stdout)
    failed = int(failures[1]) if failures else 0
    report = f"{name:<12} seed {seed:<11} {generated:>6} cases {failed:>4} failures {took:>6.1f} s"
    if done.returncode != 0 or failed or not generated:
        lines = (done.stdout + done.stderr).splitlines()
        report += "\n" + "\n".join(line[:600] for line in lines[-500:])
    print(report, flush=True)
    return generated, done.returncode == 0 and generated > 0


def main():
    demo = json.load(open(sys.argv[1], encoding="utf-8"))
    cases = int(sys.argv[sys.argv.index("-n") + 1]) if "-n" in sys.argv else 10
    # An event stream has no end, and a socket is no answer: that they refuse is tried by the others.
    endless = ("--exclude-path", "/v1/web/{key}/events", "--exclude-path", "/v1/web/{key}/socket")
    web = ("--include-path-regex", "^/v1/web/", *endless)
    endless = ("--exclude-path", "/v1/widget/{key}/events", "--exclude-path", "/v1/widget/{key}/socket")
    widget = ("--include-path-regex", "^/v1/widget/", "--header", f"Origin: {SHOP}", *endless)
    # It would revoke the key of the run itself; the operator's run has it.
    # And a route to a made-up model would make calls of that model 503, as the description says.
    routes = ("post_tenants_tenant_id_routes", "patch_tenants_tenant_id_routes_route_id")
    own = ("--exclude-method", "DELETE", *(part for route in routes for part in ("--exclude-operation-id", route)))
    last = random.SystemRandom().randrange(1, 1 << 31) if "--draw" in sys.argv else SEED + 1
    runs = [
        ("operator", "operator", SEED, ()),
        ("tenant", "tenant_key", SEED, own),
        ("nobody", None, SEED, ()),
        ("visitor", "visitor", SEED, web),
        ("widget", "widget", SEED, widget),
        ("tenant", "tenant_key", last, own),
    ]
    with ThreadPoolExecutor(max_workers=3) as pool:
        begun = [pool.submit(run, demo, name, key, cases, seed, more) for name, key, seed, more in runs]
        ended = [one.result() for one in begun]
    total, good = sum(generated for generated, _ in ended), all(fine for _, fine in ended)
    print(f"{total} cases in all")
    if total < LEAST_CASES:
        print(f"fewer than {LEAST_CASES}: raise -n, or look why")
        good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
