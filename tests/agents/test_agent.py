"""What agent authors write: handlers and their types, and how an agent is loaded."""

from __future__ import annotations

import base64
import dataclasses
import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from tidegate_agents.agent import (
    Agent,
    Context,
    Handler,
    check_handlers,
    load_agent,
)
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput, InvalidName
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.subjects import Kind

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


class Order(msgspec.Struct):
    """Data as a struct."""

    amount: int


@dataclasses.dataclass
class OrderClass:
    """Data as a dataclass."""

    amount: int


class OrderDict(TypedDict):
    """Data as a typed dictionary."""

    amount: int


class Model(pydantic.BaseModel):
    """Data as nobody on the bus reads it."""

    amount: int


class Fake:
    """A context that holds an envelope and nothing else."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope


def _handler(function: Callable[..., Any]) -> Handler:
    agent = Agent()
    agent.task("order.take")(function)
    return agent.handlers[Kind.TASK, "order.take"]


def _given(annotation: Any, data: Any, **attributes: Any) -> Any:
    """What a handler with this annotation is called with."""

    def handle(data: Any) -> None: ...

    handle.__annotations__["data"] = annotation
    context: Any = Fake(Envelope.new("order.take", data, **attributes))
    (argument,) = _handler(handle).arguments(context)
    return argument


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Order, {"amount": 2}, Order(2)),
        (OrderClass, {"amount": 2}, OrderClass(2)),
        (OrderDict, {"amount": 2}, {"amount": 2}),
        (list[Order], [{"amount": 2}], [Order(2)]),
        (Order | None, None, None),
        (dict[str, Any], {"any": [1]}, {"any": [1]}),
        (Annotated[int, msgspec.Meta(ge=1)], 7, 7),
        (int, 7, 7),
        (str, "text", "text"),
        (Any, [1, "two"], [1, "two"]),
        (object, {"a": None}, {"a": None}),
        (msgspec.Raw, {"a": 1}, msgspec.Raw(b'{"a":1}')),
        ("Order", {"amount": 2}, Order(2)),
        ("int | OrderDict", 3, 3),
    ],
)
def test_data_is_read_into_the_declared_type(annotation: Any, data: Any, expected: Any) -> None:
    """Structs, dataclasses, typed dictionaries and plain JSON types are all taken."""
    assert expected == _given(annotation, data)


def test_bytes_come_from_base64() -> None:
    """Data sent as `data_base64` reaches a handler that asks for bytes."""
    encoded = base64.b64encode(b"\x00\xff").decode()

    assert _given(bytes, None, data_base64=encoded, datacontenttype="x/y") == b"\x00\xff"


@pytest.mark.parametrize("data", [None, {}, {"amount": "2"}, [1]])
def test_data_that_does_not_fit_is_an_invalid_envelope(data: Any) -> None:
    """What the sender got wrong is told apart from what the handler does wrong."""
    with pytest.raises(InvalidEnvelope) as error:
        _given(Order, data)

    assert error.value.code == "data"


def test_data_without_a_declared_type_is_plain_json() -> None:
    """A handler without annotations gets dictionaries and lists."""

    def handle(data: Any) -> None: ...

    handle.__annotations__.clear()
    context: Any = Fake(Envelope.new("order.take", {"amount": 2}))

    assert _handler(handle).arguments(context) == ({"amount": 2},)


def test_the_context_comes_second_if_it_is_asked_for() -> None:
    """One parameter gets the data, two get data and context."""

    def alone(order: Order) -> None: ...
    def both(order: Order, context: Context) -> None: ...

    context: Any = Fake(Envelope.new("order.take", {"amount": 2}))

    assert (Order(2),) == _handler(alone).arguments(context)
    assert (Order(2), context) == _handler(both).arguments(context)


def test_only_the_type_of_the_data_must_exist_at_run_time() -> None:
    """Context and result may be annotated with what only type checkers import."""

    def handle(order: Order, context: OnlyForTypeCheckers) -> OnlyForTypeCheckers: ...  # type: ignore[empty-body]

    assert Order is _handler(handle).payload


def test_async_and_plain_functions_are_told_apart() -> None:
    """Coroutine functions run on a loop, others in threads; a partial is what it wraps."""

    async def on_loop(order: Order) -> None: ...
    def in_thread(order: Order) -> None: ...

    assert _handler(on_loop).is_async
    assert not _handler(in_thread).is_async
    assert _handler(functools.partial(on_loop)).is_async


def _nothing() -> None: ...
def _three(a: Order, b: Context, c: int) -> None: ...
def _keyword(a: Order, *, context: Context) -> None: ...
def _variadic(*data: Order) -> None: ...
def _named(a: Order, **more: int) -> None: ...
def _yields(a: Order) -> Iterator[int]:
    yield 1


async def _yields_async(a: Order) -> AsyncIterator[int]:
    yield 1


def _unknown(a: OnlyForTypeCheckers) -> None: ...
def _foreign(a: Model) -> None: ...
def _ambiguous(a: Order | OrderClass) -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_nothing, "takes the data"),
        (_three, "takes the data"),
        (_keyword, "by position"),
        (_variadic, "by position"),
        (_named, "by position"),
        (_yields, "yields"),
        (_yields_async, "yields"),
        (_unknown, "'a' is not known when it runs: name 'OnlyForTypeCheckers'"),
        (_foreign, "cannot be read into .*Model.*; declare a msgspec.Struct"),
        (_ambiguous, "cannot be read into"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_where_it_is_written(
    function: Callable[..., Any], why: str
) -> None:
    """A wrong signature fails when the agent is imported, not at its first message."""
    with pytest.raises(TypeError, match=f"{function.__name__}.*{why}"):
        _handler(function)


def test_a_destination_has_one_handler() -> None:
    """The second handler is refused, also when both decorators were made before."""
    agent = Agent()
    first, second = agent.task("order.take"), agent.task("order.take")
    first(_named_handler)

    with pytest.raises(ValueError, match="two handlers for task order"):
        second(_named_handler)
    agent.event("order.take")(_named_handler)  # an event of that name is something else

    with pytest.raises(InvalidName):
        agent.task("not a destination")


def _named_handler(order: Order) -> None: ...


def test_decorated_functions_stay_what_they_are() -> None:
    """A handler can be called in a test like any function."""
    agent = Agent()

    @agent.task("order.take")
    def take(order: Order) -> int:
        return order.amount

    assert take(Order(2)) == 2


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into a folder; gives its name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    number = iter(range(100))

    def write(text: str) -> str:
        name = f"handmade_{tmp_path.name.replace('-', '_')}_{next(number)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("handmade"):
            del sys.modules[name]


def test_an_agent_is_found_in_the_given_folder(
    module: Callable[[str], str], tmp_path: Path
) -> None:
    """The project's folder need not be the current one."""
    name = module("from tidegate_agents.agent import Agent\nmine = Agent()\n")

    assert isinstance(load_agent(f"{name}:mine", tmp_path), Agent)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("agent = 3\n", "agent is int, not an Agent"),
        ("other = 3\n", "there is no agent in .*handmade"),
        ("\n\n1 / 0\n", r"handmade\w+\.py:3\): ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no')\n", r"handmade\w+\.py:2\): SystemExit: no"),
        ("def broken(:\n", r"SyntaxError: .*handmade\w+\.py, line 1"),
        ("import nowhere_at_all\n", r"\.py:1\): ModuleNotFoundError: .*nowhere_at_all"),
    ],
)
def test_a_module_that_holds_no_agent_is_invalid_input(
    module: Callable[[str], str], tmp_path: Path, text: str, why: str
) -> None:
    """The message says what is wrong, and in which line of the user's code."""
    with pytest.raises(InvalidInput, match=why):
        load_agent(f"{module(text)}:agent", tmp_path)


@pytest.mark.parametrize("reference", ["", "module", ":agent", "module:", "a.b"])
def test_a_reference_names_module_and_attribute(reference: str) -> None:
    """Half a reference is refused with the form that is wanted."""
    with pytest.raises(InvalidInput, match="write it as module:attribute"):
        load_agent(reference)


def test_a_missing_module_is_named_without_inner_workings(tmp_path: Path) -> None:
    """A typing error does not point into the import machinery."""
    with pytest.raises(InvalidInput) as error:
        load_agent("handmade_missing:agent", tmp_path)

    assert (
        str(error.value)
        == "cannot import handmade_missing: ModuleNotFoundError: No module named 'handmade_missing'"
    )


def test_handlers_and_manifest_must_name_the_same() -> None:
    """Every difference is named, in both directions."""
    agent = Agent()
    agent.task("order.take")(_named_handler)
    agent.event("order.made")(_named_handler)
    manifest = Manifest(
        team="shop", name="clerk", version="1", owner="o", run="a:b", capabilities=("order.give",)
    )

    with pytest.raises(InvalidInput) as error:
        check_handlers(agent, manifest)

    assert str(error.value) == (
        "shop.clerk: a handler for event order.made, not in the manifest; "
        "a handler for task order.take, not in the manifest; "
        "the manifest names task order.give, no handler does"
    )
    matching = {"capabilities": ("order.take",), "subscribes": ("order.made",)}
    check_handlers(agent, manifest.model_copy(update=matching))
