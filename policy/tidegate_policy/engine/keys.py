"""The key of a context: equal for two contexts only if they are alike to some policies.

A key function is generated for each type of context and what is read of it, because it runs for
every message. It checks that the context is of its type exactly, so that nothing Cedar would
refuse ever finds a remembered answer: neither `1` for `true`, nor a number beyond 64 bits, an
attribute too many, or a text that cannot be encoded.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache
from types import CodeType
from typing import Any, cast

from .reads import Path, Reads
from .types import Record, Scalar

Key = tuple[Any, ...]
KeyFunction = Callable[[Any], Key | None]
"""None: not of the type, so that Cedar has to say what is wrong with it."""


def key_function(context: Record, reads: Reads) -> KeyFunction:
    """The key function for contexts of this type and policies that read this of them.

    It raises nothing, whatever it is given.

    Args:
        context: without `Scalar.OTHER`.
        reads: what matters.
    """
    writer = _Writer(reads)
    source = "\n".join(writer.function(context))
    names = writer.names
    exec(_compiled(source), names)  # noqa: S102  # see _Writer
    function: KeyFunction = names["key"]
    return function


@lru_cache(maxsize=1024)
def _compiled(source: str) -> CodeType:
    """Literals are names in it, so many functions have the same code, and few are compiled."""
    return compile(source, "<key function>", "exec")


class _Writer:
    """Writes a function. In it names of attributes are only ever a `repr`, and literals nowhere."""

    def __init__(self, reads: Reads) -> None:
        self.names: dict[str, Any] = {
            "ABSENT": _Absent.ABSENT,
            "bisect": bisect_right,
            "decimal": _is_decimal,
            "encodable": _is_encodable,
            "frozenset": frozenset,
            "texts": _are_texts,
        }
        self._reads = reads
        self._parts: list[str] = []
        self._count = 0

    def function(self, context: Record) -> Iterator[str]:
        yield "def key(context):"
        yield f"{_TAB}try:"
        yield from self._record("context", context, (), _TAB * 2)
        yield f"{_TAB * 2}return ({''.join(f'{part}, ' for part in self._parts)})"
        yield f"{_TAB}except Exception:"  # a sender's doing: Cedar says what is wrong with it
        yield f"{_TAB * 2}return None"

    def _record(self, value: str, type: Record, path: Path, tab: str) -> Iterator[str]:
        count = self._new("n")
        yield f"{tab}if type({value}) is not dict: return None"
        yield f"{tab}{count} = {sum(each.required for each in type.attributes.values())}"
        for name, attribute in type.attributes.items():
            inner = self._new("v")
            where = (*path, name)
            if attribute.required:
                yield f"{tab}{inner} = {value}[{name!r}]"
                yield from self._value(inner, attribute.type, where, tab)
                continue
            known = len(self._parts)
            lines = [f"{count} += 1", *self._value(inner, attribute.type, where, "")]
            if self._reads.get(where) == frozenset():
                lines.append(f"{self._part()} = True")
            yield from (f"{tab}{part} = None" for part in self._parts[known:])
            yield f"{tab}{inner} = {value}.get({name!r}, ABSENT)"
            yield f"{tab}if {inner} is not ABSENT:"
            yield from (f"{tab}{_TAB}{line}" for line in lines)
        yield f"{tab}if len({value}) != {count}: return None"

    def _value(self, value: str, type: Record | Scalar, path: Path, tab: str) -> Iterator[str]:
        """Check a value that is there, and assign what the key takes of it."""
        if isinstance(type, Record):
            yield from self._record(value, type, path, tab)
            return
        yield f"{tab}if {_WRONG[type].format(v=value)}: return None"
        literals = self._reads.get(path, frozenset[int | str]())
        if literals is None:
            if type in (Scalar.BOOL, Scalar.LONG, Scalar.STRING):
                self._parts.append(value)
            else:
                yield f"{tab}{self._part()} = {_WHOLE[type].format(v=value)}"
        elif literals:
            name = self._new("literals")
            self.names[name], classify = _classes(type, literals)
            yield f"{tab}{self._part()} = {classify.format(name=name, v=value)}"

    def _part(self) -> str:
        self._parts.append(self._new("k"))
        return self._parts[-1]

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{name}{self._count}"


def _classes(type: Scalar, literals: frozenset[int | str]) -> tuple[object, str]:
    """A value, and how it is used to tell classes of values apart that compare alike."""
    if type is Scalar.LONG:
        numbers = [each for each in literals if isinstance(each, int)]
        cuts = {cut for number in numbers for cut in (number, number + 1)}  # below, equal, above
        return sorted(cuts), "bisect({name}, {v})"
    if type is Scalar.STRING:
        return {text: place for place, text in enumerate(literals, 1)}.get, "{name}({v}, 0)"
    if type is Scalar.STRINGS:
        return literals.intersection, "{name}({v})"
    raise ValueError(f"{type} is not compared with literals")


class _Absent(Enum):
    ABSENT = None


_TAB = "    "
_DECIMAL = re.compile(r"-?[0-9]{1,14}\.[0-9]{1,4}")

_WRONG = {
    Scalar.BOOL: "type({v}) is not bool",
    Scalar.LONG: f"type({{v}}) is not int or not {-(2**63)} <= {{v}} < {2**63}",
    Scalar.STRING: "type({v}) is not str or not {v}.isascii() and not encodable({v})",
    Scalar.STRINGS: "not texts({v})",
    Scalar.DECIMAL: "not decimal({v})",
}

_WHOLE = {
    Scalar.STRINGS: "frozenset({v})",
    Scalar.DECIMAL: "{v}['__extn']['arg']",
}


def _is_encodable(text: str) -> bool:
    """Whether it has no half of a surrogate pair, as JSON can bring it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_texts(value: object) -> bool:
    if type(value) is not list:
        return False
    texts = cast("list[str]", value)
    return not texts or (set(map(type, texts)) == {str} and _is_encodable("".join(texts)))


def _is_decimal(value: Any) -> bool:
    """Whether Cedar is sure to take it; the few others that it takes are not remembered."""
    call = value["__extn"]
    if not (_is_dict_of(2, call) and _is_dict_of(1, value) and call["fn"] == "decimal"):
        return False
    return type(call["arg"]) is str and _DECIMAL.fullmatch(call["arg"]) is not None


def _is_dict_of(size: int, value: object) -> bool:
    return type(value) is dict and len(cast("dict[str, object]", value)) == size
