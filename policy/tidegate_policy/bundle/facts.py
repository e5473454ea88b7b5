"""What policy may see of the data of a message: declared in `facts.yaml`, read with its type.

    task:
      payments.pay:
        amount: Long                       # /amount of the data
        labels: Set<String>
        note?: String                      # may be missing
        iban: { type: String, at: /to/iban }

Rules read them as `context.data.amount`. A message whose facts are not as declared is denied: its
receiver could see in it what policy did not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tidegate_schemas.documents import Destination, Document, loads, misfit
from tidegate_schemas.documents.location import Location
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind

from .values import READERS, NotOfType

NAME = "facts.yaml"
KINDS = (Kind.TASK, Kind.EVENT, Kind.RESULT, Kind.CONTROL)

_MAX_DESTINATIONS = 500
_MAX_FACTS = 64
_RESERVED = frozenset(["true", "false", "if", "then", "else", "in", "is", "like", "has"])


def _unreserved(name: str) -> str:
    if name.removesuffix("?") in _RESERVED:
        raise ValueError("a word of Cedar; give it another name, and say `at` which field it is")
    return name


def _fact(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class FactDocument(Document):
    """One declared fact; written as its type alone, its pointer is its name."""

    type: Literal["Bool", "Long", "Decimal", "String", "Set<String>"]
    at: Annotated[str, Field(pattern=r"^(/([^~/]|~[01])+)+$")] | None = None
    """JSON pointer into the data."""


Facts_ = Annotated[
    dict[
        Annotated[
            str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}\??$"), AfterValidator(_unreserved)
        ],
        Annotated[FactDocument, BeforeValidator(_fact)],
    ],
    Field(min_length=1, max_length=_MAX_FACTS),
]
_Destinations = dict[Destination, Facts_]


class FactsDocument(Document):
    """`facts.yaml`: what policy may see, by kind of message and destination."""

    task: _Destinations = Field(default_factory=dict[str, Any])
    event: _Destinations = Field(default_factory=dict[str, Any])
    result: _Destinations = Field(default_factory=dict[str, Any])
    control: _Destinations = Field(default_factory=dict[str, Any])

    @model_validator(mode="after")
    def _apart(self) -> FactsDocument:
        faults = list(self._faults())
        if faults:
            raise misfit(FactsDocument, faults)
        return self

    def _faults(self) -> Iterator[tuple[Location, str]]:
        count = 0
        for kind in KINDS:
            destinations: _Destinations = getattr(self, kind)
            count += len(destinations)
            if count > _MAX_DESTINATIONS:
                yield (kind,), f"facts of more than {_MAX_DESTINATIONS} destinations"
            for to, declared in destinations.items():
                if to == "other":
                    yield (kind, to), "`other` stands for every destination without facts"
                seen: dict[tuple[str, ...], str] = {}
                for name, fact in declared.items():
                    if name.endswith("?") and name[:-1] in declared:
                        yield (kind, to, name), f"{name[:-1]} is declared already"
                    at = tokens(pointer(name, fact))
                    for other, owner in seen.items():
                        if at[: len(other)] == other or other[: len(at)] == at:
                            yield (kind, to, name), f"its field is that of {owner}, or inside of it"
                    seen[at] = name


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its Cedar type, where it is in the data, and whether it must be there."""

    type: str
    at: str
    required: bool


Declared = Mapping[str, Fact]
"""Facts of one destination, by name."""


@dataclass(frozen=True)
class Facts:
    """All declared facts of a bundle, by kind and destination."""

    declared: Mapping[tuple[Kind, str], Declared] = field(
        default_factory=dict[tuple[Kind, str], Declared]
    )

    @classmethod
    def of_text(cls, text: str) -> Facts:
        """Read `facts.yaml`.

        Raises:
            InvalidDocument: it does not hold what it must; each fault with line and field.
        """
        document = loads(text, FactsDocument, Path(NAME))
        found: dict[tuple[Kind, str], Declared] = {}
        for kind in KINDS:
            destinations: _Destinations = getattr(document, kind)
            for to, declared in destinations.items():
                found[kind, to] = {
                    name.removesuffix("?"): Fact(
                        fact.type, pointer(name, fact), not name.endswith("?")
                    )
                    for name, fact in declared.items()
                }
        return cls(found)

    def action(self, kind: Kind, to: str) -> str:
        """Id of the Cedar action that a message is."""
        return f"{kind}:{to}" if (kind, to) in self.declared else f"{kind}:other"

    def of(self, kind: Kind, to: str, envelope: Envelope) -> Mapping[str, Any] | None:
        """The facts of a message, in Cedar's JSON form; None where none are declared.

        The form is canonical: sets are sorted, decimals have four digits.

        Raises:
            InvalidEnvelope: code `invalid_facts`; one is missing, has another type, or is given
                twice. The detail names its pointer and never quotes the data.
        """
        tree = self._trees.get((kind, to))
        if tree is None:
            return None
        found: dict[str, Any] = {}
        _collect(tree, envelope.body.strip(_SPACE), "", found)
        return {name: found[name] for name in self.declared[kind, to] if name in found}

    @cached_property
    def _trees(self) -> dict[tuple[Kind, str], _Tree]:
        return {key: _tree(declared) for key, declared in self.declared.items()}


@dataclass(slots=True)
class _Tree:
    """Declared facts, by the tokens of their pointers: each object is read once."""

    inside: dict[str, _Tree] = field(default_factory=dict[str, "_Tree"])
    name: str = ""
    fact: Fact | None = None

    def required(self, at: str) -> tuple[str, Fact] | None:
        """Pointer and fact of one that must be there, here or inside."""
        if self.fact is not None:
            return (at, self.fact) if self.fact.required else None
        inner = (tree.required(f"{at}/{_escape(token)}") for token, tree in self.inside.items())
        return next(filter(None, inner), None)


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE = b" \t\r\n"  # of JSON
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def _collect(tree: _Tree, text: bytes, at: str, found: dict[str, Any]) -> None:
    """Read the facts that are in a JSON text; empty if there is none."""
    if tree.fact is not None:
        if not tree.fact.required and text in (b"", b"null"):
            return
        if not text:
            raise InvalidEnvelope(
                Reason.INVALID_FACTS, f"{at} is missing; it must be {tree.fact.type}"
            )
        try:
            found[tree.name] = READERS[tree.fact.type](text)
        except NotOfType as error:
            raise InvalidEnvelope(
                Reason.INVALID_FACTS, f"{at} is not of type {tree.fact.type}: {error}"
            ) from None
        return
    parts = _parts(text, at)
    for token, inner in tree.inside.items():
        below = f"{at}/{_escape(token)}"
        if token in parts:
            _collect(inner, parts[token], below, found)
        elif missing := inner.required(below):
            where, fact = missing
            raise InvalidEnvelope(
                Reason.INVALID_FACTS, f"{where} is missing; it must be {fact.type}"
            )


def _parts(text: bytes, at: str) -> dict[str, bytes]:
    """The parts of an object or a list as JSON text, by token; none of anything else.

    Raises:
        InvalidEnvelope: a member is given twice: two readers could see two different facts.
    """
    try:
        match text[:1]:
            case b"{":
                members = _OBJECT.decode(text)
                if _encode(members) != text:  # written by hand, or not as we would write it
                    _check_duplicates(text, at)
                return {name: bytes(part) for name, part in members.items()}
            case b"[":
                return {str(n): bytes(part) for n, part in enumerate(_ARRAY.decode(text))}
            case _:
                return {}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidEnvelope(Reason.INVALID_FACTS, f"{at or 'the data'} cannot be read") from None


def _check_duplicates(text: bytes, at: str) -> None:
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # objects close from the inside out: the last one is this one

    json.loads(text, object_pairs_hook=keep, parse_int=len, parse_float=len)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidEnvelope(Reason.INVALID_FACTS, f"{at}/{_escape(name)[:40]} is given twice")
        seen.add(name)


def _tree(declared: Declared) -> _Tree:
    root = _Tree()
    for name, fact in declared.items():
        node = root
        for token in tokens(fact.at):
            node = node.inside.setdefault(token, _Tree())
        node.name, node.fact = name, fact
    return root


def pointer(name: str, fact: FactDocument) -> str:
    """Where a fact is in the data."""
    return fact.at or f"/{name.removesuffix('?')}"


def tokens(at: str) -> tuple[str, ...]:
    """The parts of a JSON pointer (RFC 6901)."""
    parts = at.split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def _escape(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")
