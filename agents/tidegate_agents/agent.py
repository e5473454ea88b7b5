"""What agent authors write: an `Agent` with typed handlers.

    agent = Agent()

    @agent.task("math.add")
    async def add(terms: Terms) -> Sum: ...

The agent does not say who it is: its manifest and its key do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import importlib
import inspect
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

import msgspec

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.record import Receipt, Record
from tidegate_schemas.subjects import Kind, check_destination

if TYPE_CHECKING:  # `from tidegate import …` is for publishers too, who read no manifest
    import structlog

    from tidegate_schemas.manifest import Manifest

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_END_SECONDS = 1.0
_MOST_ERROR = 1000


class Context(Protocol):
    """What a handler may ask for as its second parameter.

    Attributes:
        envelope: the message.
        record: the ledger record that admitted it; `record.by` is who sent it.
        delivered: 1 for the first time that this message is handled, more when it is again.
        log: a logger that knows the message.
    """

    envelope: Envelope
    record: Record
    delivered: int
    log: structlog.stdlib.BoundLogger

    def spend(self, unit: str, amount: Decimal | int | str) -> None:
        """Say what handling the message costs, e.g. `context.spend("usd", "0.02")`.

        What was said by the end of a task is summed over its attempts here, and stands as `costs`
        on its result or its dead letter, where budgets are settled by it. What a task without any
        has cost is taken to be all that was reserved for it.

        Args:
            unit: up to 32 of `a-z` and `_`, at most 16 different ones.
            amount: at least 0, with at most nine digits after the point. Not a float, which is
                hardly ever what was meant: `0.1` is a little more than a tenth.

        Raises:
            ValueError: it cannot be written so.
        """
        ...

    async def publish(self, envelope: Envelope) -> Receipt:
        """Publish as this agent; correlation and causation are filled in from the message.

        While the bus is away this waits for it. Give the envelope an id that follows from the
        message: then a handler that is run again says the same again, and it counts once.

        Raises:
            Denied: policy says no.
            Rejected: the gateway could not read it.
            InvalidInput: it is larger than the broker takes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles the messages of one destination.

    Attributes:
        payload: type that the data is read into.
    """

    kind: Kind
    to: str
    function: Callable[..., Any]
    payload: Any
    takes_context: bool

    @property
    def is_async(self) -> bool:
        """Runs on the event loop of the handlers; otherwise in a thread."""
        return inspect.iscoroutinefunction(self.function)

    def arguments(self, context: Context) -> tuple[Any, ...]:
        """What the function is called with.

        Raises:
            InvalidEnvelope: the data does not fit the type.
        """
        payload = context.envelope.payload(self.payload)
        return (payload, context) if self.takes_context else (payload,)


class Agent:
    """A set of handlers, one a destination.

    A handler takes the data, read into the type it declares (a `msgspec.Struct`, dataclass,
    TypedDict or plain JSON type), and optionally the `Context`. It may be `async`, or plain: plain
    functions run in a thread each. What a task's handler returns is the result.

    A handler that raises is tried again, as the manifest says; a `TidegateError` that is not
    retryable (raise `Permanent`) goes to the dead letters at once.

    Where `TIDEGATE_SANDBOX` is in the environment, messages of the past are delivered again. What a
    handler does to the world outside of the bus then is its own choice.
    """

    def __init__(self) -> None:
        self._handlers: dict[tuple[Kind, str], Handler] = {}

    @property
    def handlers(self) -> Mapping[tuple[Kind, str], Handler]:
        """By kind and destination."""
        return self._handlers

    def task(self, capability: str) -> Callable[[HandlerT], HandlerT]:
        """Handle the tasks of a capability; returns a decorator.

        Raises:
            InvalidName: no destination.
            ValueError: there is a handler for it already.
            TypeError: the function cannot be a handler; says why.
        """
        return self._register(Kind.TASK, capability)

    def event(self, topic: str) -> Callable[[HandlerT], HandlerT]:
        """Handle the events of a topic; returns a decorator. Raises as `task` does."""
        return self._register(Kind.EVENT, topic)

    def _register(self, kind: Kind, to: str) -> Callable[[HandlerT], HandlerT]:
        check_destination(to)

        def decorate(function: HandlerT) -> HandlerT:
            if (kind, to) in self._handlers:
                raise ValueError(f"there are two handlers for {kind} {to}")
            self._handlers[(kind, to)] = _handler(kind, to, function)
            return function

        return decorate


def _handler(kind: Kind, to: str, function: Callable[..., Any]) -> Handler:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} yields; a handler returns its result")
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not 1 <= len(positional) <= 2 or len(positional) < len(parameters):
        raise TypeError(f"{name} takes the data and, if it wants, the context; both by position")
    payload = _annotation(name, function, positional[0])
    _check_readable(name, payload)
    return Handler(kind, to, function, payload, takes_context=len(positional) == 2)


def _annotation(name: str, function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter. The others may name what only a type checker imports."""
    if parameter.annotation is parameter.empty:
        return Any

    def alone() -> None: ...

    alone.__annotations__ = {"data": parameter.annotation}
    while isinstance(function, functools.partial):
        function = function.func
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(alone, globalns=names, include_extras=True)["data"]
    except NameError as error:
        raise TypeError(
            f"{name}: the type of {parameter.name!r} is not known when it runs: {error}"
        ) from None


def _check_readable(name: str, payload: Any) -> None:
    try:
        msgspec.json.Decoder(payload)
        known = msgspec.inspect.type_info(payload)
    except (NameError, TypeError) as error:
        raise TypeError(f"{name}: data cannot be read into {payload}: {error}") from None
    if isinstance(known, msgspec.inspect.CustomType) and known.cls is not object:
        raise TypeError(
            f"{name}: data cannot be read into {payload}; declare a msgspec.Struct, a dataclass, "
            "a TypedDict or plain JSON types"
        )


def load_agent(reference: str, folder: Path | None = None) -> Agent:
    """Import an agent.

    Args:
        reference: `module:attribute`.
        folder: where modules are found besides the usual places; the current one by default.

    Raises:
        InvalidInput: there is no such module or agent, or the module itself fails.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise InvalidInput(f"{reference!r}: write it as module:attribute")
    place = str(folder or "")
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise InvalidInput(
            f"cannot import {module_name}{_place(error)}: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, attribute):
        raise InvalidInput(f"{reference}: there is no {attribute} in {module.__file__}")
    agent = getattr(module, attribute)
    if not isinstance(agent, Agent):
        raise InvalidInput(f"{reference}: {attribute} is {type(agent).__name__}, not an Agent")
    return agent


def _place(error: BaseException) -> str:
    """Where in the user's code it happened; nothing when the module was not even found."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames[1:] else ""


def check_handlers(agent: Agent, manifest: Manifest) -> None:
    """Compare what an agent handles with what its manifest says.

    Raises:
        InvalidInput: they differ; names each difference.
    """
    declared = {(Kind.TASK, c) for c in manifest.capabilities}
    declared |= {(Kind.EVENT, t) for t in manifest.subscribes}
    handled = set(agent.handlers)
    lines = [f"the manifest names {kind} {to}, no handler does" for kind, to in declared - handled]
    lines += [f"a handler for {kind} {to}, not in the manifest" for kind, to in handled - declared]
    if lines:
        raise InvalidInput(f"{manifest.principal}: " + "; ".join(sorted(lines)))


@final
class Runner:
    """Calls handlers beside the bus: one event loop for `async` ones, a thread each for others."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="handlers", daemon=True)
        self._thread.start()

    async def run(self, handler: Handler, arguments: tuple[Any, ...]) -> Any:
        """Call a handler. Whatever it raises comes out as an `Exception`."""
        if handler.is_async:
            calling = _call(handler, arguments)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(calling, self._loop))
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()  # it cannot be stopped, only left alone
        target = contextvars.copy_context().run
        threading.Thread(  # a daemon: a process that drained does not wait for it
            target=target, args=(_fill, outcome, handler, arguments), name=handler.to, daemon=True
        ).start()
        return await asyncio.wrap_future(outcome)

    async def close(self) -> None:
        """Cancel what still runs. What does not let itself be cancelled is left alone."""
        ending = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
        await asyncio.wait({asyncio.wrap_future(ending)}, timeout=_END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _work(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


async def _call(handler: Handler, arguments: tuple[Any, ...]) -> Any:
    try:
        return await handler.function(*arguments)
    except BaseException as error:
        task = asyncio.current_task()
        ordinary = _ordinary(error)
        if ordinary is error or (task and task.cancelling()):
            raise
        raise ordinary from error


def _fill(
    outcome: concurrent.futures.Future[Any], handler: Handler, arguments: tuple[Any, ...]
) -> None:
    try:
        result = handler.function(*arguments)
    except BaseException as error:
        outcome.set_exception(_ordinary(error))
    else:
        outcome.set_result(result)


def _ordinary(error: BaseException) -> Exception:
    """An error that goes through futures as it is.

    `sys.exit` would end the event loop, a `StopIteration` the future that bears it, and something
    that was cancelled inside the handler would look as if the handler itself had been.
    """
    odd = (StopIteration, concurrent.futures.CancelledError)
    if isinstance(error, Exception) and not isinstance(error, odd):
        return error
    return RuntimeError(f"the handler raised {describe(error)}")


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def describe(error: BaseException) -> str:
    """An error in one line for logs and dead letters, whatever its text holds."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_ERROR].removesuffix(":")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
