"""Values of the declared types, read from JSON text and written as Cedar reads them.

Nothing is coerced: `true` is no number, `1.0` no Long, `"1"` no Decimal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import msgspec

_WHOLE = re.compile(rb"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(rb"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_MAX_NUMBER = 40
"""Characters of a number: more are never needed, and cost time."""
_DIGITS = 4
"""After the point of a Cedar decimal."""
_INT64 = 2**63


class NotOfType(Exception):
    """A value is not of the type; says why, without quoting it."""


def _bool(text: bytes) -> bool:
    if text not in (b"true", b"false"):
        raise NotOfType("true or false")
    return text == b"true"


def _long(text: bytes) -> int:
    if not _WHOLE.fullmatch(text):
        raise NotOfType("a whole number, without point and exponent")
    if len(text) > _MAX_NUMBER or not -_INT64 <= int(text) < _INT64:
        raise NotOfType("a number of at most 64 bits")
    return int(text)


def _decimal(text: bytes) -> dict[str, dict[str, str]]:
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise NotOfType("a number")
    sign, whole, fraction, exponent = (part or b"" for part in number.groups())
    if len(text) > _MAX_NUMBER or len(exponent.lstrip(b"+-")) > 3:
        raise NotOfType(f"a number of at most {_MAX_NUMBER} characters, 3 of them an exponent")
    digits = int(whole + fraction)
    shift = int(exponent or b"0") - len(fraction) + _DIGITS
    if shift < 0:
        digits, rest = divmod(digits, 10 ** min(-shift, 2 * _MAX_NUMBER))
        if rest:
            raise NotOfType(f"at most {_DIGITS} digits after the point")
    elif digits:
        digits *= 10 ** min(shift, _MAX_NUMBER)
    if sign:
        digits = -digits
    if not -_INT64 <= digits < _INT64:
        raise NotOfType("between -922337203685477.5808 and 922337203685477.5807")
    before, after = divmod(abs(digits), 10**_DIGITS)
    text_ = f"{'-' if digits < 0 else ''}{before}.{after:0{_DIGITS}d}"
    return {"__extn": {"fn": "decimal", "arg": text_}}


def _string(text: bytes) -> str:
    try:
        return _STRING.decode(text)
    except msgspec.MsgspecError:
        raise NotOfType("text") from None


def _strings(text: bytes) -> list[str]:
    try:
        return sorted(set(_STRINGS.decode(text)))
    except msgspec.MsgspecError:
        raise NotOfType("a list of texts") from None


_STRING = msgspec.json.Decoder(str)
_STRINGS = msgspec.json.Decoder(list[str])

READERS: dict[str, Callable[[bytes], Any]] = {
    "Bool": _bool,
    "Long": _long,
    "Decimal": _decimal,
    "String": _string,
    "Set<String>": _strings,
}
"""By type: a reader of JSON text without white space around it, which raises NotOfType."""


def written(value: Any) -> str:
    """A value as people write it; what a reader gives has decimals as objects of Cedar's JSON."""
    if isinstance(value, dict):
        return str(cast("dict[str, dict[str, str]]", value)["__extn"]["arg"])
    return str(value)
