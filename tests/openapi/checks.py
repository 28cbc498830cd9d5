"""What is held against the description of the API besides the checks that schemathesis brings.

Loaded by schemathesis through SCHEMATHESIS_HOOKS (see run.py).
"""

import schemathesis

# Why a request that fits the description may be refused. The description says how things are written,
# and not which things there are; everything else that it lets through has to be taken.
CODES = {
    "invalid_cursor": "a cursor is a text that this server made",
    "wrong_model_kind": "which model is of which kind is told by /v1/models",
    "idempotency_key_reused": "the key was used for another body before",
    "idempotency_key_invalid": "a header cannot begin or end with a blank, which HTTP takes off",
}
FIELDS = {
    "there is no such": "an id of the right form may be nobody's",
    "has to be in the future": "what is future depends on the day",
    "has to be a time such as": "a leap second, or a year that the calendar does not have",
    "is named twice": "models of a route differ",
    "must not contain the character U+0000": "it stands in a value whose form is free",
    "invalid type: floating point": "7.0 is a whole number to JSON Schema; a count is written without a point",
    "another role has this name": "names of roles differ",
    "has to be the tenant's name": "a confirmation that only whoever knows the tenant can give",
    "has to be a network such as": "an address with a length, of either family",
    "has to be a domain such as": "lengths of the parts of a name",
    "has to be an e-mail address": "lengths of the parts of an address",
    "is too easy to guess": "a judgement about words, names and keyboards",
    "name the domains from which": "needed with another field only",
    "the identity provider cannot be used": "the provider is asked before it is kept",
    "members set up a second factor themselves": "it can be taken away by others, and set up by nobody else",
    "there is a member with this address": "addresses of members differ",
    "may have four texts of 1 to 200 bytes": "the description counts characters, the server bytes",
    "is not known; there are": "settings and secrets are those of the channel's kind, which channel-kinds lists",
    "is not known: this kind": "the same of a kind that has none",
    "is needed: ": "the same of what a kind cannot do without",
    "has to be one of web": "kinds of channels are those that channel-kinds lists",
    "only partners' channels have": "a kind of channel",
    "names nothing to change": "every field may be left out, but not all of them",
    "has to be a telephone number": "how many digits a number has, and which come first",
    "give this or phone": "one of two fields, and not both",
    "is not the code, or not any more": "what was sent to an address",
    "has to be a text of 32 to 4096": "how long a secret is, which channel-kinds' kinds differ in",
    "texts with `explain`": "fewer than without",
    "needs the route's `sentiment_model`": "one field of a rule asks for another of the route",
    "give at_least, at_most, or both": "one of two fields, or both",
    "is less than at_least": "two numbers of a span",
    "sends words elsewhere": "which models do is told by /v1/plugins",
    "and has to be one that": "which model is of which kind is told by /v1/models",
    "is for routes of models that chat": "the same",
    "can be set to operator by the operator only": "who asks",
    "the form cannot be read": "the name of a field that nobody documented may be no header of a part",
    "is for answers in verbose_json": "one field of a form asks for another",
    "is for answers in json or text": "the same",
    "the key has to begin with whpk_": "a key of another form is none",
}
REQUESTS = {
    "WebSocket upgrade is expected": "the handshake is no part of a description",
    "member_id is not a member's id": "an id is a text that this server made",
    "files are pictures": "what is in a file decides, and not what it is called",
    "this sign-in did not begin in this browser, or took too long; begin again": "what the cookie says",
}
# Messages, tools and the like are OpenAI's; the description leaves their form to OpenAI's own.
OPENAI = ("messages", "tools", "tool_choice", "response_format", "stop", "stream_options")


def _fields(body):
    """The detail of each wrong field."""
    return [error["detail"] for error in body.get("errors", [])]


@schemathesis.check
def refusal_is_explained(ctx, response, case):
    """A request that fits the description is refused for one of the reasons above or not at all."""
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or response.status_code not in (400, 415, 422):
        return
    body = response.json()
    if "error" in body:
        error = body["error"]
        param = error.get("param") or ""
        if any(known in error["message"] for known in FIELDS):
            return
        if param.split("[")[0].split(".")[0] in OPENAI or error.get("code") in CODES:
            return
        raise AssertionError(f"refused without a reason that the description leaves open: {error}")
    if body["code"] in CODES:
        return
    if any(body["detail"].startswith(known) for known in REQUESTS):
        return
    details = _fields(body)
    if not details or not all(any(known in detail for known in FIELDS) for detail in details):
        raise AssertionError(f"refused without a reason that the description leaves open: {body['detail']} {details}")


@schemathesis.check
def headers_of_every_answer(ctx, response, case):
    """No answer can be taken for a page, and each can be found in the log."""
    headers = {name.lower(): ", ".join(values) for name, values in response.headers.items()}
    wanted = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "x-frame-options": "DENY",
    }
    for name, value in wanted.items():
        assert headers.get(name) == value, f"{name}: {headers.get(name)}"
    assert headers.get("content-security-policy", "").startswith("default-src 'none'"), headers
    assert headers.get("x-request-id"), "no x-request-id"
    # Whoever comes in, goes, or comes back from an identity provider; nobody else.
    comes_or_goes = ("/sessions", "/session", "/invitations/accept", "/sign-in", "/oidc/callback")
    assert "set-cookie" not in headers or case.path.endswith(comes_or_goes), headers
    assert "server" not in headers and "x-powered-by" not in headers


@schemathesis.check
def no_internals_in_refusals(ctx, response, case):
    """A refusal names neither tables, nor files, nor addresses inside."""
    if response.status_code < 400:
        return
    text = response.content.decode("utf-8", "replace").lower()
    for word in ("sqlx", "postgres", "panicked", "backtrace", ".rs:", "/home/", "redis://", "select "):
        assert word not in text, f"a refusal says {word!r}"
