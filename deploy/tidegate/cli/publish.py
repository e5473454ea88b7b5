"""`tidegate publish`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.source.shape import Shape
from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput
from tidegate_schemas.personal import PERSONAL
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import OPERATOR

from .commands import held
from .console import (
    AsOption,
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    out,
    print_json,
    run,
    verdict,
)

AboutOption = Annotated[
    str | None,
    typer.Option(
        metavar="SUBJECT",
        help="The data is about this person: it is personal, and sealed. Several with commas.",
    ),
]


def publish(
    type: Annotated[
        str | None,
        typer.Argument(
            help="What happened or is asked, e.g. order.created. Alone, - stands for many: each "
            "line of standard input is a CloudEvent."
        ),
    ] = None,
    data: Annotated[
        str, typer.Argument(help="JSON; @FILE reads a file, - reads standard input.")
    ] = "null",
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            help="Many messages: each line of standard input (or @FILE) is the data of one.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With lines: keep in FILE how far it got. Given the same input again after it was "
            "stopped, it goes on there, without loss and without repeating any.",
        ),
    ] = None,
    envelope: Annotated[
        str | None,
        typer.Option(help="Publish a whole CloudEvent from this file (- for standard input)."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="event (the default), task, result or control.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Destination; of an event its type by default.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Envelope id; repeating one is harmless.")] = None,
    correlation: Annotated[
        str | None, typer.Option(help="Correlation id, see `tidegate ledger timeline`.")
    ] = None,
    about: AboutOption = None,
    source: Annotated[
        str, typer.Option(help="URI reference of where it comes from.")
    ] = "tidegate:cli",
    principal: AsOption = str(OPERATOR),
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds to wait for the receipt.")
    ] = 30.0,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish one message and wait for the verdict, or many, one a line.

    Exit status 3 when it is refused; then the policy that decided is named.

    Of many, some are on their way at once, and no more is read than the bus takes. What is wrong
    with a line, or refused, is said with its number and stops no other; then the exit status is 2
    or 3 at the end. With --json each line has its outcome, as one line of JSON.
    """
    attributes: dict[str, Any] = {"kind": kind, "to": to, "correlationid": correlation}
    attributes |= personal(about)
    if lines or type == "-":
        if envelope is not None or id is not None or type is None:
            raise InvalidInput("lines have no --envelope and no --id; give --lines a TYPE")
        if not lines and (data != "null" or any(attributes.values())):
            raise InvalidInput("with -, each line says by itself what it is; or use TYPE --lines")
        from .lines import publish_lines

        publish_lines(
            "-" if data == "null" else data,
            Shape(type, source, attributes) if lines else None,
            resume,
            principal,
            timeout,
            project,
            state,
            as_json,
        )
        return
    if resume is not None:
        raise InvalidInput("--resume is for many messages, with - or --lines")
    if (type is None) == (envelope is None):
        raise InvalidInput("give either a TYPE or --envelope FILE; see tidegate publish --help")
    if envelope is not None:
        name, text = _text("@" + envelope if envelope != "-" else "-", "envelope")
        _check_json(name, text)
        try:
            message = decode(text.encode(), limit=None)  # how large it may be, the gateway knows
        except InvalidEnvelope as error:
            raise InvalidInput(f"{name}: {error}") from None
    else:
        assert type is not None
        raw = msgspec.Raw(json_argument(data, "data"))
        message = Envelope.new(type, raw, id=id, source=source, **attributes)
    if (size := len(encode(message))) > MAX_PAYLOAD:
        raise InvalidInput(f"{size} bytes, the broker takes {MAX_PAYLOAD} at most")
    receipt = run(_publish(message, principal, timeout, project, state))
    if as_json:
        print_json(msgspec.to_builtins(receipt))
        return
    policies = f" by {', '.join(receipt.policies)}" if receipt.policies else ""
    out.print(
        f"{verdict(receipt.verdict)}{policies}; ledger record {receipt.seq}, envelope {receipt.id}"
    )
    if receipt.verdict is Verdict.HOLD:
        out.print(clean(held(receipt)))


def personal(about: str | None) -> dict[str, str | None]:
    """Attributes of what is about somebody."""
    return {} if about is None else {"dataclassification": PERSONAL, "datasubject": about}


async def _publish(
    message: Envelope, principal: str, timeout: float, project: Path | None, state: Path | None
) -> Receipt:
    async with await Bus.of_project(principal, project, state) as bus:
        return await bus.publish(message, timeout=timeout)


def json_argument(argument: str, what: str) -> bytes:
    """The JSON of an argument: given as it is, as @FILE, or as - for standard input.

    Raises:
        InvalidInput: it cannot be read or is no JSON; says where.
    """
    name, text = _text(argument, what)
    _check_json(name, text)
    return text.strip().encode()


def _text(argument: str, what: str) -> tuple[str, str]:
    """Name and text of a JSON argument."""
    name = what
    try:
        if argument == "-":
            name = "standard input"
            return name, sys.stdin.buffer.read().decode()
        if argument.startswith("@"):
            name = argument[1:]
            return name, Path(name).read_text("utf-8")
        argument.encode()  # what the shell gave us need not be text
    except OSError as error:
        raise InvalidInput(f"{name}: {error.strerror}") from None
    except UnicodeError as error:
        raise InvalidInput(f"{name}: not UTF-8: {getattr(error, 'reason', error)}") from None
    return what, argument


def _check_json(name: str, text: str) -> None:
    """Say where JSON is malformed, with the line and a mark under the place.

    Raises:
        InvalidInput: it is.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Lines as JSON has them, not `splitlines`, which knows more ends of lines than these.
        line = text.split("\n")[error.lineno - 1].rstrip("\r")
        start = max(0, error.colno - 40)
        shown = "".join(c if c.isprintable() else " " for c in line[start : start + 80])
        mark = " " * (error.colno - 1 - start) + "^"
        raise InvalidInput(
            f"{name}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}\n  {shown}\n  {mark}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}: malformed JSON: {error}") from None
