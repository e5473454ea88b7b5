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
from nats.aio.msg import Msg

from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Denied, InvalidRecord, NoReceipt, Rejected, Unavailable
from tidegate_schemas.record import Receipt, decode_receipts
from tidegate_schemas.subjects import Verdict

from .connection import Connection

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.publisher")

_RESEND_SECONDS = 2.0
_RESEND_MAX_SECONDS = 10.0
_REFUSED_PAUSE_SECONDS = 0.25


@dataclass(slots=True)
class _Open:
    """An envelope on its way. `accepted` and `receipt` are set once each."""

    envelope_id: str
    payload: bytes
    token: str
    accepted: asyncio.Future[int]
    receipt: asyncio.Future[Receipt]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sends: int = 0
    refusal: str = ""


class Publisher:
    """Publishes as the principal of a connection. Make one with `Publisher.start`."""

    def __init__(self, connection: Connection, window: int) -> None:
        """Strictly private: use `start`."""
        self._connection = connection
        self._subject = subjects.submission(connection.principal)
        self._inbox = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._window = asyncio.Semaphore(window)
        self._by_token: dict[str, _Open] = {}
        self._by_id: dict[str, list[_Open]] = {}
        self._sent = 0

    @classmethod
    async def start(cls, connection: Connection, *, window: int = 256) -> Self:
        """A publisher whose receipts are already listened for.

        Args:
            connection: of the principal that publishes.
            window: envelopes that may be on their way at once; more callers wait.
        """
        publisher = cls(connection, window)
        await connection.listen(f"{publisher._inbox}.*", publisher._on_accepted)
        await connection.listen(subjects.receipt(connection.principal), publisher._on_receipts)
        connection.on_reconnect(publisher._resend_all)
        return publisher

    @overload
    async def publish(
        self, envelope: Envelope, *, wait: Literal["verdict"] = "verdict", timeout: float = 30.0
    ) -> Receipt: ...

    @overload
    async def publish(
        self, envelope: Envelope, *, wait: Literal["accepted"], timeout: float = 30.0
    ) -> None: ...

    async def publish(
        self,
        envelope: Envelope,
        *,
        wait: Literal["verdict", "accepted"] = "verdict",
        timeout: float = 30.0,
    ) -> Receipt | None:
        """Publish an envelope.

        Args:
            envelope: what to publish; its id makes a repeated call harmless.
            wait: `verdict` returns when the gateway has decided and the ledger has the record.
                `accepted` returns when the durable ingress has it; the verdict is not awaited.
            timeout: seconds; the envelope is sent again within them when nothing is heard.

        Returns:
            The receipt: verdict, ledger sequence and deciding policies. A repeated envelope gets
            verdict `duplicate` and the sequence of the first record. None with `accepted`.

        Raises:
            Denied: policy or a rule of the gateway said no, now or at the first time.
            Rejected: the gateway could not read it.
            NoReceipt: nothing was heard in time; publish the same envelope again.
        """
        async with self._window:
            open_ = self._open(envelope)
            try:
                async with asyncio.timeout(timeout):
                    await self._deliver(open_, wait)
            except TimeoutError:
                what = "acceptance" if not open_.accepted.done() else "receipt"
                raise NoReceipt(
                    envelope.id, timeout, f"{what}{open_.refusal and f' ({open_.refusal})'}"
                ) from None
            finally:
                self._close(open_)
        return settle(open_.receipt.result()) if wait == "verdict" else None

    async def _deliver(self, open_: _Open, wait: str) -> None:
        """Send until what is waited for has come."""
        done = open_.receipt if wait == "verdict" else open_.accepted
        pause = _RESEND_SECONDS
        while not done.done():
            open_.wake.clear()
            try:
                await self._connection.nats.publish(
                    self._subject, open_.payload, reply=f"{self._inbox}.{open_.token}"
                )
            except nats.errors.OutboundBufferLimitError:
                pass  # disconnected and the buffer is full: wait and send again
            except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as e:
                raise Unavailable(
                    f"the connection of {self._connection.principal} is closed"
                ) from e
            open_.sends += 1
            try:
                async with asyncio.timeout(pause):
                    await open_.wake.wait()
                if not done.done():
                    await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
            except TimeoutError:
                pause = min(pause * 2, _RESEND_MAX_SECONDS)

    def _open(self, envelope: Envelope) -> _Open:
        loop = asyncio.get_running_loop()
        self._sent += 1
        open_ = _Open(
            envelope.id,
            encode(envelope),
            f"{self._sent:x}",
            loop.create_future(),
            loop.create_future(),
        )
        self._by_token[open_.token] = open_
        self._by_id.setdefault(open_.envelope_id, []).append(open_)
        return open_

    def _close(self, open_: _Open) -> None:
        self._by_token.pop(open_.token, None)
        same = self._by_id.get(open_.envelope_id, [])
        if open_ in same:
            same.remove(open_)
        if not same:
            self._by_id.pop(open_.envelope_id, None)

    def _resend_all(self) -> None:
        """After a reconnect nobody knows what arrived."""
        for open_ in self._by_token.values():
            open_.refusal = "reconnected"
            open_.wake.set()

    async def _on_accepted(self, message: Msg) -> None:
        open_ = self._by_token.get(message.subject.rpartition(".")[2])
        if open_ is None:
            return
        try:
            answer = msgspec.json.decode(message.data, type=_PubAck)
        except msgspec.DecodeError:  # no responders: headers only
            answer = _PubAck(error=_PubError(503, "no ingress"))
        if answer.error is None:
            if not open_.accepted.done():
                open_.accepted.set_result(answer.seq)
            if not open_.receipt.done():
                return  # the receipt is still to come; do not wake a sender that waits for it
        else:
            open_.refusal = f"{answer.error.description} ({answer.error.code})"
        open_.wake.set()

    async def _on_receipts(self, message: Msg) -> None:
        try:
            receipts = decode_receipts(message.data)
        except InvalidRecord as error:
            _log.warning("not receipts", subject=message.subject, error=str(error))
            return
        for receipt in receipts:
            for open_ in self._by_id.get(receipt.id, ()):
                if not open_.accepted.done():
                    open_.accepted.set_result(receipt.ingress)
                if not open_.receipt.done():
                    open_.receipt.set_result(receipt)
                open_.wake.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()


class _PubError(msgspec.Struct, frozen=True):
    code: int
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
