"""The OpenAPI document (3.1) of the edge, out of the types that it reads and writes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from tidegate_bus.binding import BATCH, STRUCTURED
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import Kind, Verdict

from .events import Limits, Outcome
from .exchange import Exchange
from .messages import Status
from .problems import KIND, TYPE
from .tasks import MOST_SECONDS

_REF = "#/components/schemas/{name}"
_TITLES = {
    400: "Malformed; `pointer`, `header` or `parameter` says where",
    401: "It is not known who you are",
    403: "Policy says no, or you may not come in",
    404: "There is none",
    405: "Not with this method",
    408: "The request did not come in time",
    410: "The data was erased",
    413: "Too large",
    415: "Not of a type, or in a coding, that is read",
    429: "Too often, or too much of yours waits for the gateway",
    431: "Too many headers",
    501: "Not in a transfer coding that is read",
    502: "The agent gave up",
    503: "The bus is away, the edge stops, or too much is open at once",
}
_EVERYWHERE = (400, 405, 408, 431, 503)
_OWN = (401, 403, 429)
_BODY = (413, 415, 501)


class Document:
    """`GET /v1/openapi.json`."""

    def __init__(self, limits: Limits) -> None:
        self._text = msgspec.json.encode(document(limits))

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        await exchange.answer(200, self._text, "application/vnd.oai.openapi+json;version=3.1")


def document(limits: Limits) -> dict[str, Any]:
    """The document."""
    (event, outcome, status), schemas = msgspec.json.schema_components(
        [Envelope, Outcome, Status], ref_template=_REF
    )
    schemas["Problem"] = _problem()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate, the HTTP edge",
            "version": version("tidegate"),
            "description": "CloudEvents in, verdicts out. Every event that is accepted gets "
            "exactly one record of the ledger, however often it is sent: its `source` and `id` "
            "are the idempotency key.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"certificate": []}],
        "paths": {
            "/v1/events": {"post": _events(event, outcome, limits)},
            "/v1/tasks/{capability}": {"post": _tasks(event, outcome, limits)},
            "/v1/webhooks/{name}": {"post": _webhooks(limits)},
            "/v1/messages/{id}": {"get": _messages(status)},
            "/v1/stream": {"get": _stream()},
            "/v1/openapi.json": {"get": _open("document", "This document", _any("object"))},
            "/healthz": {"get": _open("health", "The edge is up", _any("object"))},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`tidegate token add PRINCIPAL`, or a token of the OpenID "
                    "provider that the settings name.",
                },
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _events(event: Any, outcome: Any, limits: Limits) -> dict[str, Any]:
    wait = {"type": "string", "enum": ["verdict", "accepted"], "default": "verdict"}
    body: dict[str, Any] = {
        STRUCTURED: {"schema": event},
        BATCH: {"schema": {"type": "array", "items": event}},
        "application/json": {"schema": {}},
    }
    each = {"type": "array", "items": {"anyOf": [outcome, _ref("Problem")]}}
    either = {"oneOf": [outcome, each]}
    return {
        "operationId": "publish",
        "summary": "Publish events",
        "description": "Structured (one event), batched (an array) or binary (the body is the "
        "data, of any type, the attributes are headers `ce-…`). What becomes of each event of a "
        "batch is told in its order; 207 where not all went well. An extension attribute that is "
        f"not one of those below is refused. At most {limits.body} bytes.",
        "parameters": [
            _parameter("wait", "query", wait, "Answer with the verdict, or once it is safe."),
            _parameter("Prefer", "header", _any("string"), "`respond-async` is `wait=accepted`."),
            *(
                _parameter(f"ce-{name}", "header", _any("string"), "Binary mode.")
                for name in ("id", "source", "type", "specversion")
            ),
        ],
        "requestBody": {"required": False, "content": body},
        "responses": {
            "200": _json("Decided", either) | {"headers": _LOCATION},
            "202": _json("In the durable ingress", either) | {"headers": _LOCATION},
            "207": _json("Not all events of a batch went well", each),
            **_problems(*_OWN, *_BODY, 410),
        },
    }


def _tasks(event: Any, outcome: Any, limits: Limits) -> dict[str, Any]:
    prefer = f"`wait=10` waits so many seconds for the result, {MOST_SECONDS} at most."
    return {
        "operationId": "startTask",
        "summary": "Give a task to an agent",
        "description": "The body is the data of the task, or a CloudEvent. The result comes as a "
        f"CloudEvent in binary mode. At most {limits.body} bytes.",
        "parameters": [
            _parameter("capability", "path", _any("string"), "What the agent can do."),
            _parameter("Prefer", "header", _any("string"), prefer),
            _parameter(
                "Idempotency-Key",
                "header",
                {"type": "string", "minLength": 1, "maxLength": 256},
                "Makes a repeated request the same task; the `id` of an event does so too.",
            ),
        ],
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": {}}, STRUCTURED: {"schema": event}},
        },
        "responses": {
            "200": {
                "description": "The result",
                "headers": _LOCATION | {"Preference-Applied": {"schema": _any("string")}},
                "content": {"*/*": {"schema": {}}},
            },
            "202": _json("On its way, or held for an approval", outcome) | {"headers": _LOCATION},
            **_problems(*_OWN, *_BODY, 410, 502),
        },
    }


def _webhooks(limits: Limits) -> dict[str, Any]:
    return {
        "operationId": "webhook",
        "summary": "Take what an outside system sends by itself",
        "description": f"Signed as that system does it. At most {limits.body} bytes.",
        "security": [],
        "parameters": [_parameter("name", "path", _any("string"), "As in the settings.")],
        "requestBody": {"required": False, "content": {"*/*": {"schema": {}}}},
        "responses": {
            "200": {"description": "Taken", "content": {"*/*": {"schema": {}}}},
            "202": _json("Held for an approval", _any("object")),
            **_problems(401, 403, 404, 410, *_BODY, 429),
        },
    }


def _messages(status: Any) -> dict[str, Any]:
    return {
        "operationId": "message",
        "summary": "What became of a message",
        "description": "Its verdict and position in the ledger, the result of a task, and, once a "
        "checkpoint covers it, the proof that it is in the log.",
        "parameters": [
            _parameter("id", "path", _any("string"), "Of the event."),
            _parameter("source", "query", _any("string"), "Of the event, where ids are not enough"),
            _parameter("by", "query", _any("string"), "Who sent it, `team.name`; you by default."),
        ],
        "responses": {
            "200": _json("What is known", status),
            **_problems(*_OWN, 404, 410),
        },
    }


def _stream() -> dict[str, Any]:
    sequence = {"type": "integer", "minimum": 0}
    return {
        "operationId": "stream",
        "summary": "Records of the ledger as they are written",
        "description": "Server-sent events: `id` is the ledger sequence, `event` the verdict, "
        "`data` the record. Operators see all of them, others their own and the results for them.",
        "parameters": [
            _parameter("after", "query", sequence, "Begin after this sequence; now by default."),
            _parameter("Last-Event-ID", "header", sequence, "The same, and goes before it."),
            _parameter("by", "query", _any("string"), "Only of this sender."),
            _parameter("kind", "query", _words(Kind), "Only of this kind."),
            _parameter("verdict", "query", _words(Verdict), "Only with this verdict."),
            _parameter("to", "query", _any("string"), "Only to this destination, or `orders.>`."),
            _parameter("correlation", "query", _any("string"), "Only of this correlation."),
        ],
        "responses": {
            "200": {
                "description": "The stream",
                "content": {"text/event-stream": {"schema": _any("string")}},
            },
            **_problems(*_OWN),
        },
    }


_LOCATION: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the message's status is told"}
}


def _open(name: str, summary: str, schema: Any) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": summary, "content": {"*/*": {"schema": schema}}},
            **_problems(),
        },
    }


def _parameter(name: str, place: str, schema: Any, description: str) -> dict[str, Any]:
    found = {"name": name, "in": place, "schema": schema, "description": description}
    return found | ({"required": True} if place == "path" else {})


def _json(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int) -> dict[str, Any]:
    content = {KIND: {"schema": _ref("Problem")}}
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return {
        str(status): {"description": _TITLES[status], "content": content}
        | ({"headers": retry} if status in (429, 503) else {})
        for status in sorted({*statuses, *_EVERYWHERE})
    }


def _problem() -> dict[str, Any]:
    """RFC 9457, with the members that are used here."""
    texts = {
        "type": f"`{TYPE}` and a stable word.",
        "title": "What such problems are called.",
        "detail": "What is wrong this time, and the way out.",
        "pointer": "JSON pointer (RFC 6901) to what is at fault in the body.",
        "header": "The header that is at fault.",
        "parameter": "The parameter that is at fault.",
        "reason": "Stable word for the ground.",
        "id": "Of the event, in an answer to a batch or of a task.",
        "source": "The same.",
        "by": "Who gave up.",
    }
    properties: dict[str, Any] = {
        name: {"type": "string", "description": text} for name, text in texts.items()
    }
    properties |= {
        "status": {"type": "integer"},
        "seq": {"type": "integer", "description": "The ledger record that says so."},
        "policies": {"type": "array", "items": {"type": "string"}},
    }
    return {"type": "object", "required": ["type", "title", "status"], "properties": properties}


def _any(type: str) -> dict[str, str]:
    return {"type": type}


def _words(words: type[Kind] | type[Verdict]) -> dict[str, Any]:
    return {"type": "string", "enum": [*words]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}
