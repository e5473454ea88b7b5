"""The bus as a program outside of it sees it: publish as one principal, read what it may."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tidegate_bus.connection import Connection, connect
from tidegate_bus.keys import Keys
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal

from .project import SANDBOX, State, address, client_tls, find_project

_KEY_SECONDS = 10.0


class Bus:
    """A connection to the bus.

    async with await Bus.connect(url, "outside.git", Path("git.nk")) as bus:
        receipt = await bus.publish(Envelope.new("repo.commit", {"sha": "…"}))

    Attributes:
        publish: publishes an envelope, see `tidegate_bus.publisher.Publisher.publish`.
    """

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        """Strictly private: use `connect` or `of_project`."""
        self._connection = connection
        self.publish = publisher.publish

    @classmethod
    async def connect(
        cls,
        url: str,
        principal: str,
        secret: str | Path,
        *,
        tls: ssl.SSLContext | Path | None = None,
        window: int = 256,
    ) -> Self:
        """Connect as a principal.

        Args:
            url: `nats://host:port` or `tls://host:port`, or several with commas.
            principal: `team.name`.
            secret: its nkey seed (`SU…`), or the path of its seed or `.creds` file.
            tls: for `tls://`, the folder with `authority.pem`, and with `client.pem` and
                `client.key` if the broker asks for them; or a context. Without it the broker's
                certificate must be one that this machine trusts.
            window: envelopes that may be on their way at once; more callers of `publish` wait.

        Raises:
            NotConnected: nobody answers there, or the broker does not know the key, or TLS is
                not as both sides want it.
            InvalidInput: no principal, no seed, or certificates that are not as they should be.
        """
        connection = await connect(url, Principal.parse(principal), secret, tls=tls)
        try:
            return cls(connection, await Publisher.start(connection, window=window))
        except BaseException:
            await connection.close()
            raise

    @classmethod
    async def of_project(
        cls,
        principal: str,
        folder: Path | None = None,
        state: Path | None = None,
        *,
        window: int = 256,
    ) -> Self:
        """Connect to the stack that runs in a project's folder, with the key it keeps there.

        Args:
            principal: `team.name`.
            folder: the project, or a folder inside it; the current one by default.
            state: where the stack keeps its state; `.tidegate` in the project by default.
            window: see `connect`.

        Raises:
            InvalidInput: no project, no running stack, or no such principal; or this is a handler
                in a sandbox, to which messages of the past are delivered again.
            NotConnected: the stack does not answer.
        """
        if SANDBOX in os.environ:
            raise InvalidInput(
                f"{SANDBOX} is set: messages of the past are delivered again here, and what is "
                "said about them is not for the bus of the project"
            )
        where = State(state or find_project(folder or Path.cwd()) / ".tidegate")
        who, url = Principal.parse(principal), address(where)
        if not where.keyring.path(who).exists():
            raise InvalidInput(
                f"there is no principal {who} here, or the stack has not been started since it was "
                "named; publishers stand in tidegate.yaml, agents in agents/, and "
                "`tidegate identity add` lets others in"
            )
        key, tls = where.keyring.path(who), client_tls(where)
        return await cls.connect(url, principal, key, tls=tls, window=window)

    @property
    def ledger(self) -> LedgerReader:
        """Reads the ledger, for principals that may (operators)."""
        return LedgerReader(self._connection)

    async def records(
        self, start: int = 1, *, since: int | None = None, follow: bool = False
    ) -> AsyncIterator[Record]:
        """Records of the ledger, for principals that may read it (operators).

        Args:
            start: first sequence.
            since: ns since 1970, instead of `start`.
            follow: go on with what is written later, for ever.

        Raises:
            LedgerGap: a record is missing.
            Unavailable: the broker does not answer, or this principal may not read.
        """
        async for stored in self.ledger.read(start, since=since, follow=follow):
            yield stored.record()

    async def pseudonym(self, subject: str) -> str | None:
        """What stands for a data subject in the ledger, for operators; None if nothing is kept.

        Raises:
            Unopened: this principal may not ask.
            Unavailable: the gateway does not answer.
        """
        return await Keys(self._connection).find(subject, timeout=_KEY_SECONDS)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
