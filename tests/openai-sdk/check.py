"""The unmodified openai package (PyPI) talks to a running platform.

usage: check.py DEMO_JSON MODEL [SPEECH_MODEL FOLDER]
FOLDER holds said.wav and said.ogg, as tests/e2e/recording.py writes them.
Exits 1 with what was wrong; prints the answers it got.
"""

import json
import os
import pathlib
import re
import sys
import urllib.request

import openai


SAID = "Some call me nature. Others call me Mother Nature."
# What is compressed may be misheard in a letter or two.
SAID_ABOUT = re.compile("mother nature", re.IGNORECASE)


def main() -> None:
    demo = json.load(open(sys.argv[1], encoding="utf-8"))
    model = sys.argv[2]
    client = openai.OpenAI(base_url=demo["base_url"] + "/v1", api_key=demo["api_key"], max_retries=0)

    names = [entry.id for entry in client.models.list()]
    assert model in names, f"{model} is not among {names}"
    assert client.models.retrieve(model).id == model

    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=40, temperature=0)
    text = whole.choices[0].message.content
    assert text and text.strip(), whole
    assert whole.choices[0].finish_reason in ("stop", "length"), whole
    assert whole.usage.prompt_tokens > 0 and whole.usage.completion_tokens > 0, whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    print("whole: ", text.strip())

    parts, usage, finish = [], None, None
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=40,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices:
            parts.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    streamed = "".join(parts)
    assert len([part for part in parts if part]) > 1, f"one piece is not a stream: {parts}"
    assert finish in ("stop", "length"), finish
    assert usage is not None and usage.completion_tokens > 0, usage
    # Greedy decoding: the same question gets the same words either way.
    assert streamed.strip() == text.strip(), (streamed, text)
    print("stream:", streamed.strip())

    for make, error in (
        (lambda: client.chat.completions.create(model="no-such-model", messages=messages), openai.NotFoundError),
        (lambda: client.chat.completions.create(model=model, messages=[]), openai.BadRequestError),
        (
            lambda: openai.OpenAI(base_url=demo["base_url"] + "/v1", api_key="qk_live_wrong", max_retries=0).models.list(),
            openai.AuthenticationError,
        ),
    ):
        try:
            make()
        except error as refusal:
            print("refused:", refusal.code, "-", refusal.message)
        else:
            raise AssertionError(f"{error.__name__} was expected")


def let_listen(demo, model):
    """A route to the model, so that the demo's key may call it."""
    request = urllib.request.Request(
        f"{demo['base_url']}/v1/tenants/{demo['tenant_id']}/routes",
        data=json.dumps({"name": "listens", "models": [model]}).encode(),
        headers={
            "authorization": f"Bearer {demo['operator_key']}",
            "content-type": "application/json",
            "idempotency-key": os.urandom(8).hex(),
        },
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert answer.status == 201, answer.status


def listen() -> None:
    """What somebody says is written down, in each form of answer that the package knows."""
    demo = json.load(open(sys.argv[1], encoding="utf-8"))
    model, folder = sys.argv[3], pathlib.Path(sys.argv[4])
    let_listen(demo, model)
    client = openai.OpenAI(base_url=demo["base_url"] + "/v1", api_key=demo["api_key"], max_retries=0)
    create = client.audio.transcriptions.create
    wav, ogg = folder / "said.wav", folder / "said.ogg"

    plain = create(model=model, file=wav)
    assert plain.text == SAID, plain
    assert plain.usage.type == "duration" and plain.usage.seconds == 6, plain.usage
    print("heard: ", plain.text)
    assert SAID_ABOUT.search(create(model=model, file=ogg, language="en", prompt="Of nature.", temperature=0).text)

    text = create(model=model, file=wav, response_format="text")
    assert text.strip() == SAID, text
    srt = create(model=model, file=wav, response_format="srt")
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", srt), srt
    vtt = create(model=model, file=wav, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:"), vtt
    verbose = create(model=model, file=wav, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (verbose.text, verbose.language, verbose.duration) == (SAID, "en", 6), verbose
    ends = [(segment.start, segment.end) for segment in verbose.segments]
    assert ends and all(start < end <= 6 for start, end in ends), ends
    first = verbose.segments[0]
    assert first.avg_logprob <= 0 and 0 <= first.no_speech_prob <= 1 and first.compression_ratio > 0, first
    print("verbose:", ends)

    events = list(create(model=model, file=wav, stream=True))
    assert [event.type for event in events[-1:]] == ["transcript.text.done"], events
    deltas = [event.delta for event in events[:-1]]
    assert deltas and "".join(deltas) == events[-1].text == SAID, events
    print("stream:", deltas)

    key = {"Idempotency-Key": os.urandom(8).hex()}
    answers = [client.audio.transcriptions.with_raw_response.create(model=model, file=wav, extra_headers=key) for _ in "12"]
    assert answers[0].parse().text == answers[1].parse().text == SAID
    assert answers[1].headers.get("idempotent-replayed") == "true", answers[1].headers

    for make, error in (
        (lambda: create(model=model, file=("a.pdf", b"%PDF-1.7")), openai.BadRequestError),
        (lambda: create(model=model, file=wav, language="zh"), openai.BadRequestError),
        (lambda: create(model=sys.argv[2], file=wav), openai.BadRequestError),
        (lambda: create(model="whisper-1", file=wav), openai.NotFoundError),
        (lambda: create(model=model, file=("long.wav", b"x" * (12 << 20))), openai.APIStatusError),
    ):
        try:
            make()
        except error as refusal:
            print("refused:", refusal.status_code, refusal.code, "-", refusal.message)
        else:
            raise AssertionError(f"{error.__name__} was expected")


if __name__ == "__main__":
    main()
    if len(sys.argv) > 3:
        listen()
