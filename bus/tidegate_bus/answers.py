"""Where answers come that are many messages: one inbox for all questions of a connection.

To listen and to stop listening for each question would cost the broker more than the answer: with
each of them it forgets where the messages of everybody go. Across accounts it keeps every question
in mind for minutes, as long as its inbox is listened to; so after some another inbox takes over.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from nats.aio.subscription import Subscription

from tidegate_schemas import subjects

from .message import Message

if TYPE_CHECKING:
    from .connection import Connection

_QUESTIONS = 1000

Hearer = Callable[[Message], None]


class _Inbox:
    """Some questions, and who hears what is answered to those that are open."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.asked = 0
        self.open: dict[str, Hearer] = {}
        self.subscription: Subscription | None = None

    def hear(self, message: Message) -> None:
        """Hand an answer on; what comes too late is for nobody."""
        if hearer := self.open.get(message.subject):
            hearer(message)


class Answers:
    """Gives a question its own subject to be answered to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: _Inbox | None = None

    @contextlib.asynccontextmanager
    async def to(self, hearer: Hearer) -> AsyncGenerator[str]:
        """A subject where messages are heard for as long as the context lasts.

        Raises:
            Unavailable: the connection is closed.
        """
        before = inbox = self._inbox
        if inbox is None or inbox.asked >= _QUESTIONS:
            inbox = await self._another()
        inbox.asked += 1
        reply = f"{inbox.subject}.{inbox.asked:x}"
        inbox.open[reply] = hearer
        if before is not inbox:
            await self._retire(before)
        try:
            yield reply
        finally:
            del inbox.open[reply]
            await self._retire(inbox)

    async def _another(self) -> _Inbox:
        """An inbox for the questions that come now."""
        prefix = subjects.inbox(self._connection.principal)
        inbox = _Inbox(f"{prefix}.{secrets.token_hex(8)}")
        inbox.subscription = await self._connection.hear(f"{inbox.subject}.*", inbox.hear)
        self._inbox = inbox
        return inbox

    async def _retire(self, inbox: _Inbox | None) -> None:
        """Stop to listen where another one has taken over, once the last question is answered."""
        if inbox and inbox is not self._inbox and not inbox.open:
            await self._connection.forget(inbox.subscription)
