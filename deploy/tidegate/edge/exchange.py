"""A request and its answer: thinner than starlette's, and bounded in what it reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from .bodies import Bodies, peer
from .problems import KIND, Problem, too_large, unfit

REPLY = "tidegate.reply"
"""Where in the state of a scope the protocol offers to send an answer as a whole."""
Reply = Callable[[int, list[tuple[bytes, bytes]], bytes], bool]
"""Sends status, headers and body at once; False if that cannot be, and nothing was sent."""

_JSON = "application/json"
_SINGLE = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"transfer-encoding",
    )
)
"""Headers of which two say two things: what stands before the edge may have read the other one."""
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?", re.IGNORECASE)


class Gone(Exception):
    """The client went away: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Preference:
    """What `Prefer` says (RFC 7240).

    Attributes:
        wait: seconds to wait for the outcome; None if nothing is said.
        asynchronous: to answer as soon as the request is safe.
    """

    wait: int | None
    asynchronous: bool


class Exchange:
    """A request; answer it once.

    Attributes:
        headers: names in lower case; of one that is given twice, the last.
        parameters: of the path.
        status: of the answer, once it has begun.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, bodies: Bodies) -> None:
        self.scope = scope
        self._bodies, self._held = bodies, 0
        self.receive = receive
        self.send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: dict[str, str] = {}
        self.status: int | None = None

    def check_headers(self) -> None:
        """See to it that no header says two things.

        Raises:
            Problem: 400; one that decides something is given twice, or `Host` not at all.
        """
        if b"host" not in self.headers and self.scope["http_version"] == "1.1":
            raise unfit("HTTP/1.1 needs one (RFC 9112, 3.2)", "header", "host")
        given: list[tuple[bytes, bytes]] = self.scope["headers"]
        if len(given) == len(self.headers):
            return
        seen: set[bytes] = set()
        for name, _ in given:
            if name in seen and name in _SINGLE:
                text = name.decode()
                raise Problem(
                    400,
                    "invalid",
                    "Not as it should be",
                    f"{text} is given twice",
                    at={"header": text},
                )
            seen.add(name)

    def header(self, name: bytes) -> str | None:
        """A header as text, byte by byte (ISO 8859-1)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def certificate(self) -> str | None:
        """Subject of the certificate that the client showed, RFC 4514."""
        found: str | None = self.scope["state"].get("certificate")
        return found

    def query(self, known: Iterable[str]) -> dict[str, str]:
        """The parameters of the query.

        Raises:
            Problem: 400; one is given twice, or is not known, so that a slip is no silent change.
        """
        raw: bytes = self.scope["query_string"]
        found: dict[str, str] = {}
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32
            )
        except ValueError as error:
            raise Problem(400, "query", "Not a query", str(error)) from None
        for name, value in pairs:
            if name not in known or name in found:
                what = "is given twice" if name in found else f"is none of {', '.join(known)}"
                raise Problem(
                    400, "query", "Not a query", f"{name[:80]} {what}", at={"parameter": name}
                )
            found[name] = value
        return found

    def preference(self) -> Preference:
        """What the client would like (RFC 7240); what is not known of it is left out."""
        text = self.header(b"prefer") or ""
        wait, asynchronous = None, False
        for part in text.split(","):
            word = part.partition(";")[0].strip()
            if found := _WAIT.fullmatch(word):
                wait = int(found[1])
            elif word.lower() == "respond-async":
                asynchronous = True
        return Preference(wait, asynchronous)

    async def body(self, limit: int, bodies: Bodies | None = None) -> bytes:
        """The body of the request.

        Args:
            limit: most bytes.
            bodies: what it takes room of until it is answered, if not of the application's.

        Raises:
            Problem: 413, it is larger; 503, there is no room for it; 415 or 501, it is compressed:
                what it would grow to, nobody knows. What is not read is the protocol's, see
                `Bounds.unread`.
            Gone: the client went away.
        """
        coding = (self.header(b"content-encoding") or "identity").strip().lower()
        if coding != "identity":
            raise Problem(
                415,
                "content-coding",
                "Compressed",
                f"{coding[:40]} is not read here; send the body as it is",
                at={"header": "Content-Encoding"},
                headers=(("accept-encoding", "identity"),),
            )
        framing = self.header(b"transfer-encoding")
        if framing is not None and framing.strip().lower() != "chunked":
            raise Problem(
                501,
                "transfer-coding",
                "Not a transfer coding that is read",
                f"{framing[:40]} is not, chunked is",
                at={"header": "Transfer-Encoding"},
            )
        length = self.header(b"content-length")
        if length is not None and int(length) > limit:
            raise too_large(f"{length} bytes", limit)
        self._bodies = bodies or self._bodies
        found = bytearray()
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            piece: bytes = message["body"]
            if len(found) + len(piece) > limit:
                raise too_large(f"over {limit} bytes", limit)
            if piece:
                self._bodies.take(self.peer, len(piece))
                self._held += len(piece)
            if not message["more_body"]:
                return bytes(found) + piece if found else piece  # nearly always it is here at once
            found += piece

    @property
    def client(self) -> str:
        """Address of who sent it."""
        client: tuple[str, int] | None = self.scope["client"]
        return client[0] if client else ""

    @cached_property
    def peer(self) -> str:
        """Whose room its body takes, see `bodies.peer`."""
        return peer(self.scope["client"])

    def release(self) -> None:
        """Its body is not needed any more."""
        if self._held:
            self._bodies.give_back(self.peer, self._held)

    async def left(self) -> None:
        """Wait until the client goes away."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        kind: str = _JSON,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Answer at once."""
        found = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        found += [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self.status = status
        reply: Reply | None = self.scope["state"].get(REPLY)
        if reply is None or not reply(status, found, body):
            await self.send({"type": "http.response.start", "status": status, "headers": found})
            await self.send({"type": "http.response.body", "body": body})

    async def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin an answer that `send` goes on with, of status 200."""
        self.status = 200
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def tell(self, problem: Problem) -> None:
        """Answer with what is wrong."""
        await self.answer(problem.status, problem.body(), KIND, problem.headers)
