"""`POST /v1/webhooks/{name}`: what outside systems send by themselves, once they know the way.

    body as it came ─► signature ─► rule: an event ─► submitted as the webhook's principal

A sender that is told 2xx is content; one that is told 429 or 5xx comes again, and the id of the
event makes that harmless. What is not taken shows: in the log, in `tidegate_edge_webhooks`, and,
once it was submitted, in the ledger.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter

from tidegate.project import Project
from tidegate_bus.identity.guarded import GuardedFile
from tidegate_schemas.edge import WebhookSettings
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import (
    Denied,
    InvalidInput,
    NoReceipt,
    NotAdmitted,
    Refused,
    TidegateError,
    Unauthenticated,
    Unavailable,
)
from tidegate_schemas.rate import Rate
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict

from . import rules
from .bucket import Bucket
from .callers import Caller, Callers
from .signatures import Shown, shown, verify

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge.webhooks")

WEBHOOKS = Counter(
    "tidegate_edge_webhooks", "Webhooks, by source and what became of them", ["source", "outcome"]
)

_LINES = Rate(10, 10.0)
"""Of the log, for each source and ground; how many were not written stands in the next one."""
_SHOWN = 80
_SECONDS = {"slack": 2.5}
_OTHER_SECONDS = 8.0
"""How long a verdict is waited for. Slack wants to hear within 3 s, GitHub within 10 s."""

Submit = Callable[[Caller, Envelope, float], Awaitable[Receipt]]
"""Submits as a caller, and waits that many seconds for the verdict; see `Publisher.publish`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    status: int
    body: bytes = b""
    kind: str = "application/json"


class Secret:
    """What a sender signs with, from a file or the environment.

    Several lines are several secrets, of which each is good: so a secret is changed. A file is
    read again when it was changed.
    """

    def __init__(self, settings: WebhookSettings, root: Path, environ: Mapping[str, str]) -> None:
        self._variable = settings.secret_env
        self._environ = environ
        self._file = GuardedFile(root / (settings.secret_file or ""))
        self._version = ""
        self._lines: list[bytes] = []

    def lines(self) -> list[bytes]:
        """The secrets.

        Raises:
            InvalidInput: there is none, or others may read the file.
        """
        if self._variable is not None:
            return _lines(self._environ.get(self._variable, "").encode(), self._variable)
        version = self._file.version()
        if not version or version != self._version:
            path = self._file.path
            content = self._file.read()
            if content is None:
                raise InvalidInput(f"{path}: there is no such file; it is to hold the secret")
            if path.stat().st_mode & 0o077:
                raise InvalidInput(f"{path}: others may read this secret; run chmod 600 {path}")
            self._lines, self._version = _lines(content, str(path)), version
        return self._lines


def _lines(content: bytes, where: str) -> list[bytes]:
    found = [line.strip() for line in content.splitlines() if line.strip()]
    if not found:
        raise InvalidInput(f"{where}: holds no secret")
    return found


class Webhooks:
    """The webhooks of a project.

    Args:
        project: whose settings, which were checked, see `faces`.
        callers: says whether a principal may come in.
        submit: submits an event.
        clock: seconds since 1970.
        environ: where secrets may be.
    """

    def __init__(
        self,
        project: Project,
        callers: Callers,
        submit: Submit,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = project.settings.edge.webhooks
        self._callers, self._submit = callers, submit
        self._clock = clock
        self._secrets = {n: Secret(s, project.root, environ) for n, s in self._settings.items()}
        self._unwritten: dict[tuple[str, str], tuple[Bucket, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def shown(self, name: str, headers: Mapping[str, str], client: str) -> Shown:
        """The signature of a request, of which nothing else is read without one.

        Args:
            name: of the webhook, one that is there.
            headers: of the request, by their names in lower case.
            client: who sent it, for the log.

        Raises:
            Unauthenticated: there is none; it was counted, and stands in the log.
        """
        try:
            return shown(self._settings[name], headers)
        except Unauthenticated as error:
            self._tell(name, headers, client, error)
            raise

    async def take(
        self, name: str, headers: Mapping[str, str], shown: Shown, body: bytes, client: str
    ) -> Answer:
        """Take a request.

        Args:
            name: of the webhook, one that is there.
            headers: of the request, by their names in lower case.
            shown: its signature.
            body: of the request, as it came.
            client: who sent it, for the log.

        Raises:
            TidegateError: it is not taken; it was counted, and stands in the log.
        """
        try:
            outcome, answer = await self._answer(name, headers, shown, body)
        except TidegateError as error:
            self._tell(name, headers, client, error)
            raise
        WEBHOOKS.labels(name, outcome).inc()
        return answer

    async def _answer(
        self, name: str, headers: Mapping[str, str], shown: Shown, body: bytes
    ) -> tuple[str, Answer]:
        settings = self._settings[name]
        try:
            secrets = self._secrets[name].lines()
        except InvalidInput as error:
            raise Unavailable(str(error)) from None
        verify(shown, secrets, body, self._clock(), settings.tolerance)
        if settings.verify == "slack" and (challenge := _challenge(headers, body)):
            return "challenge", Answer(200, challenge.encode(), "text/plain; charset=utf-8")
        caller = self._callers.named(settings.principal, f"webhook {name}")
        envelope = rules.event(name, settings, headers, body)
        seconds = _SECONDS.get(settings.verify, _OTHER_SECONDS)
        try:
            receipt = await self._submit(caller, envelope, seconds)
        except NoReceipt as error:
            if not error.accepted:
                raise
            return "accepted", Answer(202)  # it is safe, and its verdict will be in the ledger
        if settings.verify == "slack":  # it would show to people what an answer says
            return receipt.verdict, Answer(200)
        said = {"verdict": receipt.verdict, "seq": receipt.seq, "id": envelope.id}
        status = 202 if receipt.verdict is Verdict.HOLD else 200
        return receipt.verdict, Answer(status, msgspec.json.encode(said))

    def _tell(
        self, name: str, headers: Mapping[str, str], client: str, error: TidegateError
    ) -> None:
        outcome = _outcome(error)
        WEBHOOKS.labels(name, outcome).inc()
        bucket, unwritten = self._unwritten.get((name, outcome), (Bucket(_LINES), 0))
        if bucket.take(time.monotonic_ns()):
            self._unwritten[name, outcome] = bucket, unwritten + 1
            return
        self._unwritten[name, outcome] = bucket, 0
        facts: dict[str, Any] = {"unwritten": unwritten} if unwritten else {}
        if isinstance(error, Refused):
            facts["record"] = error.seq
        _log.warning(
            "webhook not taken",
            source=name,
            outcome=outcome,
            error=str(error)[:300],
            client=client,
            delivery=_delivery(headers),
            **facts,
        )


def _outcome(error: TidegateError) -> str:
    match error:
        case Unauthenticated():
            return error.reason
        case NotAdmitted():
            return "not admitted"
        case Denied():
            return "deny"
        case Refused():
            return "reject"
        case Unavailable():
            return "unavailable"
        case _:
            return "invalid"


def _challenge(headers: Mapping[str, str], body: bytes) -> str | None:
    """What Slack wants to hear before it sends anything (its `url_verification`)."""
    _, said = rules.payload(headers.get("content-type", ""), body)
    match said:
        case {"type": "url_verification", "challenge": str(challenge)}:
            return challenge
        case _:
            return None


def _delivery(headers: Mapping[str, str]) -> str | None:
    """The id that a sender gives a delivery, for whoever looks for it; nobody vouches for it."""
    found = headers.get("x-github-delivery")
    return found and found[:_SHOWN]
