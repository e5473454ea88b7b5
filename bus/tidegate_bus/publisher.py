"""Submitting envelopes and hearing the verdicts.

Repeating an envelope is always safe: the gateway answers with the first verdict. So whatever may
have been lost, at the broker, on the way or in a reconnect, is simply sent again.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, overload

import msgspec
import nats.errors
import structlog

from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import (
    BacklogFull,
    Denied,
    InvalidEnvelope,
    InvalidRecord,
    NoReceipt,
    Rejected,
    Unavailable,
)
from tidegate_schemas.personal import is_personal
from tidegate_schemas.record import Receipt, decode_receipts
from tidegate_schemas.subjects import Verdict

from .connection import Connection
from .keys import Keys
from .message import Message

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.publisher")

_RESEND_SECONDS = 2.0
_RESEND_MAX_SECONDS = 10.0
_REFUSED_PAUSE_SECONDS = 0.25
_LOOK_SECONDS = 0.1
_EARLY = 4096
_BACKLOG_FULL = 10077
"""What JetStream answers where a subject has as many messages as it may have."""


@dataclass(slots=True)
class _Open:
    """An envelope on its way. Times are of the event loop's clock.

    Attributes:
        done: set with the receipt, or with None once it is accepted if no more is waited for.
        resend: when it is sent again if nothing was heard.
        pause: how long after that the next time.
        patient: whether to wait where the broker takes no more of this sender for now.
        ingress: under which sequences it was accepted.
    """

    envelope_id: str
    payload: bytes
    token: str
    done: asyncio.Future[Receipt | None]
    only_accepted: bool
    began: float
    deadline: float
    resend: float
    patient: bool
    pause: float = _RESEND_SECONDS
    ingress: set[int] = field(default_factory=set[int])
    refusal: str = ""


class Publisher:
    """Publishes as the principal of a connection. Make one with `Publisher.start`."""

    def __init__(self, connection: Connection, window: int) -> None:
        """Strictly private: use `start`."""
        self._connection = connection
        self._keys = Keys(connection)
        self._subject = subjects.submission(connection.principal)
        self._inbox = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._window = asyncio.Semaphore(window)
        self._by_token: dict[str, _Open] = {}
        self._by_ingress: dict[int, _Open] = {}
        self._early: dict[int, Receipt] = {}
        self._sent = 0
        self._undecided = 0  # how many wait for a verdict
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.Task[None] | None = None  # kept, or it would be collected

    @classmethod
    async def start(cls, connection: Connection, *, window: int = 256) -> Self:
        """A publisher whose receipts are already listened for.

        Args:
            connection: of the principal that publishes; its end is the publisher's end.
            window: envelopes that may be on their way at once; more callers wait.
        """
        publisher = cls(connection, window)
        await connection.hear(f"{publisher._inbox}.*", publisher._on_accepted)
        await connection.hear(subjects.receipt(connection.principal), publisher._on_receipts)
        connection.on_reconnect(publisher._resend_all)
        publisher._looking = asyncio.create_task(publisher._look_after())
        return publisher

    @overload
    async def publish(
        self,
        envelope: Envelope,
        *,
        wait: Literal["verdict"] = "verdict",
        timeout: float = 30.0,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> Receipt: ...

    @overload
    async def publish(
        self,
        envelope: Envelope,
        *,
        wait: Literal["accepted"],
        timeout: float = 30.0,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> None: ...

    async def publish(
        self,
        envelope: Envelope,
        *,
        wait: Literal["verdict", "accepted"] = "verdict",
        timeout: float = 30.0,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> Receipt | None:
        """Publish an envelope.

        Args:
            envelope: what to publish; its id (of an event, with its source) makes a repeated call
                harmless. Personal data is sealed first.
            wait: `verdict` returns when the gateway has decided and the ledger has the record.
                `accepted` returns when the durable ingress has it; the verdict is not awaited.
            timeout: seconds from its first sending; it is sent again within them when nothing
                is heard.
            when_full: what to do while as much of this sender waits for the gateway as the broker
                takes: try again until the timeout, or leave that to the caller.

        Returns:
            The receipt: verdict, ledger sequence and deciding policies. A repeated envelope gets
            verdict `duplicate` and the sequence of the first record; one that waits for an approval
            or the end of a pause `hold`. None with `accepted`.

        Raises:
            Denied: policy or a rule of the gateway said no, now or at the first time.
            Rejected: the gateway could not read it.
            NoReceipt: nothing was heard in time; publish the same envelope again.
            InvalidEnvelope: it is larger than the broker takes, or does not say whom its personal
                data is about; nothing was sent.
            Unopened: the data of one of those was erased; nothing was sent.
            BacklogFull: the broker takes no more of this sender for now (only with `raise`).
            Unavailable: the connection was closed, or the gateway gave no key in time.
        """
        if is_personal(envelope) and envelope.dataenc is None:
            envelope = await self._keys.seal(envelope, timeout=timeout)
        payload = encode(envelope)
        largest = self._connection.nats.max_payload
        if len(payload) > largest:
            raise InvalidEnvelope(
                "oversized", f"{len(payload)} bytes, the broker takes at most {largest}"
            )
        async with self._window:
            self._sent += 1
            now = self._loop.time()
            open_ = _Open(
                envelope_id=envelope.id,
                payload=payload,
                token=f"{self._sent:x}",
                done=self._loop.create_future(),
                only_accepted=wait == "accepted",
                began=now,
                deadline=now + timeout,
                resend=now + _RESEND_SECONDS,
                patient=when_full == "wait",
            )
            self._by_token[open_.token] = open_
            self._undecided += not open_.only_accepted
            try:
                await self._send(open_)
                receipt = await open_.done
            finally:
                self._forget(open_)
        return None if receipt is None else settle(receipt)

    async def _send(self, open_: _Open) -> None:
        client, reply = self._connection.nats, f"{self._inbox}.{open_.token}"
        try:
            if not client.post(self._subject, open_.payload, reply):
                await client.publish(self._subject, open_.payload, reply=reply)
        except nats.errors.OutboundBufferLimitError:
            open_.refusal = "disconnected"  # and the buffer is full; it is sent again
        except nats.errors.Error as error:
            _settle(open_, Unavailable(f"{self._connection.principal} cannot publish: {error}"))

    def _forget(self, open_: _Open) -> None:
        del self._by_token[open_.token]
        self._undecided -= not open_.only_accepted
        for sequence in open_.ingress:  # an answer may name another's: nobody vouches for it
            if self._by_ingress.get(sequence) is open_:
                del self._by_ingress[sequence]

    def _resend_all(self) -> None:
        """After a reconnect nobody knows what arrived."""
        now = self._loop.time()
        for open_ in self._by_token.values():
            open_.resend = min(open_.resend, now)

    async def _look_after(self) -> None:
        """Send again what was not heard of, and give up on what is late.

        One task for all, because two timers an envelope cost more than sending it.
        """
        while not self._connection.nats.is_closed:
            now = self._loop.time()
            for open_ in list(self._by_token.values()):
                if open_.done.done():
                    continue
                if now >= open_.deadline:
                    _settle(open_, _no_receipt(open_))
                elif now >= open_.resend:
                    open_.resend = now + open_.pause
                    open_.pause = min(2 * open_.pause, _RESEND_MAX_SECONDS)
                    await self._send(open_)
            await asyncio.sleep(_LOOK_SECONDS)
        for open_ in self._by_token.values():
            _settle(open_, Unavailable(f"the connection of {self._connection.principal} is closed"))

    def _on_accepted(self, message: Message) -> None:
        open_ = self._by_token.get(message.subject.rpartition(".")[2])
        if open_ is None:
            return
        try:
            answer = msgspec.json.decode(message.data, type=_PubAck)
        except msgspec.DecodeError:  # no responders: headers only
            answer = _PubAck(error=_PubError(503, description="no ingress"))
        if answer.error is not None:
            if answer.error.err_code == _BACKLOG_FULL and not open_.patient:
                _settle(open_, BacklogFull(self._connection.principal, _REFUSED_PAUSE_SECONDS))
            open_.refusal = f"{answer.error.description} ({answer.error.code})"
            open_.resend = self._loop.time() + _REFUSED_PAUSE_SECONDS
            return
        open_.ingress.add(answer.seq)
        self._by_ingress[answer.seq] = open_
        if open_.only_accepted:
            _settle(open_, None)
        elif (early := self._early.pop(answer.seq, None)) and early.id in ("", open_.envelope_id):
            _settle(open_, early)

    def _on_receipts(self, message: Message) -> None:
        try:
            receipts = decode_receipts(message.data)
        except InvalidRecord as error:
            _log.warning("not receipts", subject=message.subject, error=str(error))
            return
        if not self._undecided:
            return
        for receipt in receipts:
            open_ = self._by_ingress.get(receipt.ingress)
            if open_ is None:  # of another connection of this principal; or it overtook its PubAck
                self._early[receipt.ingress] = receipt
                if len(self._early) > _EARLY:
                    del self._early[next(iter(self._early))]
            elif receipt.id in ("", open_.envelope_id):  # without one it could not be read
                _settle(open_, None if open_.only_accepted else receipt)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()


def _settle(open_: _Open, outcome: Receipt | Exception | None) -> None:
    if open_.done.done():
        return
    if isinstance(outcome, Exception):
        open_.done.set_exception(outcome)
    else:
        open_.done.set_result(outcome)


def _no_receipt(open_: _Open) -> NoReceipt:
    accepted = bool(open_.ingress)
    what = "receipt" if accepted else f"acceptance{open_.refusal and f' ({open_.refusal})'}"
    seconds = round(open_.deadline - open_.began, 3)
    return NoReceipt(open_.envelope_id, seconds, what, accepted=accepted)


class _PubError(msgspec.Struct, frozen=True):
    code: int
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    """What JetStream answers to a publish."""

    seq: int = 0
    error: _PubError | None = None


def settle(receipt: Receipt) -> Receipt:
    """The receipt, or the error that it stands for.

    Raises:
        Denied: the verdict, or the first verdict of a duplicate, is `deny`.
        Rejected: it is `reject`.
    """
    match receipt.was or receipt.verdict:
        case Verdict.DENY:
            raise Denied(receipt.reason, receipt.detail, receipt.seq, receipt.policies)
        case Verdict.REJECT:
            raise Rejected(receipt.reason, receipt.detail, receipt.seq)
        case _:
            return receipt
