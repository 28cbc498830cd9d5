"""The unmodified openai package (PyPI) talks to a running platform.

usage: check.py DEMO_JSON MODEL
Exits 1 with what was wrong; prints the answers it got.
"""

import json
import sys

import openai


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


if __name__ == "__main__":
    main()
