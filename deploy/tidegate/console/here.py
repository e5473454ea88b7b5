"""What every page of the console works with: the project, its bus, and whoever acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from starlette.requests import Request
from starlette.responses import RedirectResponse

from tidegate.bus import Bus
from tidegate.governance import state_of
from tidegate.identities import Roles
from tidegate.index import IndexKeeper, LedgerIndex
from tidegate.project import Project, address, client_tls
from tidegate.runs import Runs
from tidegate.tokens import Tokens
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.bulk import Access
from tidegate_bus.connection import Connection, connect
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.tasks import end
from tidegate_policy.state import State
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, TidegateError
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import CONSOLE

from .bundles import Bundles
from .follower import Follower
from .memory import Memory, recall
from .outcome import Outcome, of_error, of_receipt
from .session import Session, Sessions, session_of
from .trials import Trials

_SECONDS = 15.0
_MOST_TOLD = 20


class Here:
    """Of one console. Use it in `async with`.

    It reads as `tidegate.console`, and looks at consumers and streams as the registrar. What
    people do there goes over connections of their own.

    Args:
        project: whose console it is.

    Attributes:
        name: of the project.
        sessions: who is logged in.
        index: of the ledger.
        runs: all of them, in brief.
        bundles: the policies that the ledger has.
        trials: of policies.
        stopping: set when the console is to end; live views end then.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.name = project.settings.project
        self.sessions = Sessions(Tokens(project.state.tokens), Roles(project.state).of)
        self.index = LedgerIndex(project.state.index)
        self.runs = Runs()
        self.bundles = Bundles()
        self.trials = Trials(project)
        self.stopping = asyncio.Event()
        self._closing = contextlib.AsyncExitStack()
        self._buses: dict[Principal, Bus] = {}
        self._opening = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._reader: Connection | None = None
        self._registrar: Connection | None = None
        self._follower: Follower | None = None
        self._known: tuple[int, State] | None = None

    @property
    def access(self) -> Access:
        """How to read the ledger in bulk."""
        state = self.project.state
        return Access(address(state), CONSOLE, state.keyring.path(CONSOLE), client_tls(state))

    @property
    def ledger(self) -> LedgerReader:
        """Reads the ledger, as the console itself."""
        assert self._reader, "used in `async with`"
        return LedgerReader(self._reader)

    @property
    def registrar(self) -> Connection:
        """Sees streams and consumers."""
        assert self._registrar, "used in `async with`"
        return self._registrar

    @property
    def follower(self) -> Follower:
        """What is live."""
        assert self._follower, "used in `async with`"
        return self._follower

    async def state(self) -> State:
        """What lasts, up to the end of the ledger; not to be changed. See `governance.state_of`.

        Raises:
            LedgerError, Unavailable: see there.
        """
        end = await self.ledger.last()
        last = end.seq if end else 0
        if self._known is None or self._known[0] != last:
            self._known = last, await self.state_at(last)
        return self._known[1]

    async def state_at(self, seq: int) -> State:
        """The same, right after the record `seq`."""
        return await state_of(self.ledger, seq)

    def goes_on(self, session: Session) -> bool:
        """Whether a live view may: the console does not end, and neither did the session."""
        try:
            return not self.stopping.is_set() and self.sessions.alive(session, time.time_ns())
        except InvalidInput:  # nobody can tell; the next page says so
            return False

    async def bus_of(self, principal: Principal) -> Bus:
        """The bus of a person, connected at the first use.

        Raises:
            InvalidInput: there is no key of theirs here.
            NotConnected: the broker does not let them in.
        """
        async with self._opening:
            if principal not in self._buses:
                project = self.project
                self._buses[principal] = await Bus.of_project(
                    str(principal), project.root, project.state.folder
                )
            return self._buses[principal]

    async def tidy(self) -> None:
        """Disconnect who is not logged in any more.

        Raises:
            TidegateError: what reads the ledger has ended.
        """
        for task in self._tasks:
            if task.done():
                task.result()
        with contextlib.suppress(InvalidInput):  # is said to whoever asks for a page
            self.sessions.sweep(time.time_ns())
        async with self._opening:
            for principal in [who for who in self._buses if not self.sessions.has(who)]:
                await self._buses.pop(principal).close()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            state = self.project.state
            key, tls = state.keyring.path(REGISTRAR), client_tls(state)
            url, read = address(state), self.access
            registrar = await connect(url, REGISTRAR, key, tls=tls)
            self._registrar = await stack.enter_async_context(registrar)
            own = await connect(url, CONSOLE, read.secret, tls=tls)
            self._reader = await stack.enter_async_context(own)
            keeper = IndexKeeper(read, own, state.index)
            stack.callback(self.index.close)
            stack.callback(keeper.close)
            known = await asyncio.to_thread(recall, state.memory, read)
            self.runs, self.bundles = known.runs, known.bundles
            self._follower = Follower(keeper, known.flow, self.index, registrar, state)
            memory = Memory(state.memory, known, (self.runs, self.bundles, self._follower))
            stack.callback(memory.save)
            keeper.begin_after(known.seq)
            keeper.listen(memory)
            self._tasks = [asyncio.create_task(work.run()) for work in (keeper, self._follower)]
            for task in self._tasks:
                stack.push_async_callback(end, task)
            stack.push_async_callback(self.trials.close)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with self._closing:
            for bus in self._buses.values():
                await bus.close()


def console_of(request: Request) -> Here:
    """What a page works with."""
    here = request.state.console
    assert isinstance(here, Here)
    return here


async def act(request: Request, title: str, to: str, data: Any, **attributes: Any) -> Outcome:
    """Say a command as the person who is logged in, and wait for the verdict.

    Args:
        request: of the page.
        title: what it is, in a few words: `Pause agent:a.b`.
        to: the command.
        data: of it.
        attributes: of the envelope.
    """
    envelope = Envelope.new(
        to,
        data,
        id=uuid.uuid4().hex,
        source="tidegate:console",
        kind="control",
        to=to,
        **attributes,
    )
    return await perform(request, title, lambda bus: bus.publish(envelope, timeout=_SECONDS))


async def perform(
    request: Request, title: str, work: Callable[[Bus], Awaitable[Receipt]]
) -> Outcome:
    """Do something over the bus of the person who is logged in.

    Args:
        request: of the page.
        title: what it is, in a few words.
        work: does it, and gives the receipt of its last message.
    """
    here, principal = console_of(request), session_of(request).principal
    try:
        receipt = await work(await here.bus_of(principal))
    except TidegateError as error:
        return of_error(title, principal, error)
    await here.follower.until(receipt.seq)  # so that the next page knows of it
    return of_receipt(title, receipt)


def tell(session: Session, outcome: Outcome, there: str) -> RedirectResponse:
    """Go on to a page, which shows what came of an action."""
    session.told = [*session.told, outcome][-_MOST_TOLD:]  # not every program looks at pages
    return RedirectResponse(there, 303)
