"""served.py DEMO MODELS: the vectors that a platform serves at /v1/embeddings, asked for by the unmodified openai
package, against ONNX Runtime's on the same weights; and what it refuses."""
import json, pathlib, sys, time, urllib.request
import numpy as np
import openai
from network import Reference

demo = json.load(open(sys.argv[1], encoding="utf8"))
models = pathlib.Path(sys.argv[2])
base, key = demo["base_url"], demo["api_key"]
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
TEXTS = ["Where is my parcel?", "我的快递还没到，应该怎么办？", "C'est pas mal 👍😀", "a", "Order #2, 2 × 15.90 €\n\tplease", "为什么" * 300]


def call(method, path, body=None):
    request = urllib.request.Request(base + path, json.dumps(body).encode() if body else None, method=method,
                                     headers={"authorization": f"Bearer {key}", "content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def vectors(answer):
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], np.float32)


def refused(**asked):
    try:
        client.embeddings.create(**asked)
    except openai.APIStatusError as error:
        return error.status_code, error.body
    raise AssertionError(f"taken: {str(asked)[:200]}")


def await_model(name):
    deadline = time.monotonic() + 120
    while not any(one["id"] == name and one["kind"] == "embed" for one in call("GET", "/v1/models")["data"]):
        assert time.monotonic() < deadline, f"{name} is not there"
        time.sleep(0.3)
    while refusal := try_once(name):
        assert time.monotonic() < deadline, refusal
        time.sleep(0.3)


def try_once(name):
    try:
        client.embeddings.create(model=name, input="ready?")
    except openai.APIStatusError as error:
        return str(error)


for name, longest in (("multilingual-e5-small", 512), ("all-minilm-l6-v2", 256)):
    call("POST", f"/v1/tenants/{demo['tenant_id']}/routes", {"name": f"for {name}", "models": [name]})
    await_model(name)
    reference = Reference(str(models / f"{name}.safetensors"))
    worst = 1.0
    for purpose in ("query", "passage"):
        prefix = reference.card.get(purpose, "")
        ids = reference.ids(TEXTS, prefix)
        theirs = np.stack([reference.means([one])[0] for one in ids])
        # The package asks for base64 where nobody says how, and reads it.
        more = {"input_type": purpose}
        answer = client.embeddings.create(model=name, input=TEXTS, extra_body=more)
        ours = vectors(answer)
        floats = vectors(client.embeddings.create(model=name, input=TEXTS, encoding_format="float", extra_body=more))
        assert np.abs(ours - floats).max() < 1e-6, "base64 holds the same numbers"
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5
        cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        worst = min(worst, float(cosine.min()))
        assert 0.999 < cosine.min(), f"{name} {purpose}: {cosine}"
        assert answer.usage.prompt_tokens == sum(map(len, ids)), (answer.usage, [len(one) for one in ids])
        told = [getattr(one, "truncated", False) for one in answer.data]
        assert told == [len(one) == longest for one in ids], told
        alone = np.concatenate([vectors(client.embeddings.create(model=name, input=text, extra_body=more)) for text in TEXTS])
        assert np.abs(alone - ours).max() < 1e-4, "a batch of n equals n singles"
    width = ours.shape[1]
    sized = client.embeddings.create(model=name, input="a", dimensions=width)
    assert len(sized.data[0].embedding) == width
    for asked, status, param in (
        ({"input": "a", "dimensions": width - 1}, 400, "dimensions"),
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ["a", " \n"]}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": [1, 2, 3]}, 400, None),
        ({"input": "a" * (21 << 20)}, 413, None),
    ):
        got, body = refused(model=name, **asked)
        assert got == status and body["message"], (str(asked)[:80], got, body)
        # Of an entry of a list its place is named.
    assert param is None or body["param"].split("[")[0] == param, (str(asked)[:80], body)
    print(f"{name}: {len(TEXTS)} texts for both purposes through the platform, least cosine {worst:.6f}, width {width}")
