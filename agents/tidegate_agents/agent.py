"""What agent authors write: an `Agent` with typed handlers.

    agent = Agent()

    @agent.task("math.add")
    async def add(terms: Terms) -> Sum: ...

The agent does not say who it is: its manifest and its key do.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Receipt, Record
from tidegate_schemas.subjects import Kind, check_destination

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class Context(Protocol):
    """What a handler may ask for as its second parameter.

    Attributes:
        envelope: the message.
        record: the ledger record that admitted it; `record.by` is who sent it.
        delivered: 1 for the first delivery, more when it comes again.
        log: a logger that knows the message.
    """

    envelope: Envelope
    record: Record
    delivered: int
    log: structlog.stdlib.BoundLogger

    async def publish(self, envelope: Envelope) -> Receipt:
        """Publish as this agent; correlation and causation are filled in from the message.

        Raises:
            Denied: policy says no.
            Rejected: the gateway could not read it.
            NoReceipt: nothing was heard; the retry of the handler publishes again.
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
        """
        return self._register(Kind.TASK, capability)

    def event(self, topic: str) -> Callable[[HandlerT], HandlerT]:
        """Handle the events of a topic; returns a decorator. Raises as `task` does."""
        return self._register(Kind.EVENT, topic)

    def _register(self, kind: Kind, to: str) -> Callable[[HandlerT], HandlerT]:
        check_destination(to)
        if (kind, to) in self._handlers:
            raise ValueError(f"there are two handlers for {kind} {to}")

        def decorate(function: HandlerT) -> HandlerT:
            self._handlers[(kind, to)] = _handler(kind, to, function)
            return function

        return decorate


def _handler(kind: Kind, to: str, function: Callable[..., Any]) -> Handler:
    parameters = list(inspect.signature(function).parameters.values())
    if not 1 <= len(parameters) <= 2:
        raise TypeError(f"{function.__qualname__} takes the data and, if it wants, the context")
    hints = typing.get_type_hints(function)
    return Handler(
        kind, to, function, hints.get(parameters[0].name, Any), takes_context=len(parameters) == 2
    )


def load_agent(reference: str) -> Agent:
    """Import an agent.

    Args:
        reference: `module:attribute`; modules of the current folder are found.

    Raises:
        InvalidInput: there is no such module or agent, or the module itself fails.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        raise InvalidInput(f"{reference!r}: write it as module:attribute")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise InvalidInput(
            f"cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    agent = getattr(module, attribute, None)
    if not isinstance(agent, Agent):
        raise InvalidInput(f"{reference}: {attribute} is {type(agent).__name__}, not an Agent")
    return agent


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
