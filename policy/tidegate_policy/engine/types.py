"""What the engine is told and what it tells: plain values.

The caller writes the Cedar schema; Cedar cannot list what is in it. So the same facts are given
twice: as the schema's text for Cedar, and as `Contexts` for the keys of remembered decisions.
Where they differ nothing wrong is permitted: what does not fit `Contexts` exactly is decided by
Cedar, every time, and so is all of an action if Cedar does not take what fits `Contexts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

PRINCIPAL = "Agent"
"""Entity type of every principal."""

Uid = tuple[str, str]
"""Type and id of an entity, such as `("Team", "security")`."""

Entities = Mapping[Uid, tuple[Mapping[str, Any], tuple[Uid, ...]]]
"""Attributes and parents of each entity.

Attributes are in Cedar's JSON form: a reference to an entity is
`{"__entity": {"type": …, "id": …}}`. Whoever stands here must fit the schema: an entity that does
not is an error of each request that reaches it, which is then denied. Never changed once given.
"""


class Scalar(StrEnum):
    """A type of a context attribute that is not a record."""

    BOOL = "Bool"
    """`bool`."""
    LONG = "Long"
    """`int` from -2**63 to 2**63 - 1, not `bool`."""
    STRING = "String"
    """`str`."""
    STRINGS = "Set<String>"
    """`list` of `str`; order and repetition do not count."""
    DECIMAL = "decimal"
    """`{"__extn": {"fn": "decimal", "arg": "12.5"}}`."""
    OTHER = "other"
    """Anything else, such as an entity. Cedar decides all with such a context, every time."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a record: its type, and whether it must be there."""

    type: Scalar | Record
    required: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """A record type: nothing but these attributes may be in a value of it (a `dict`)."""

    attributes: Mapping[str, Attribute]


Contexts = Mapping[str, Record]
"""Type of the context of each action that can be asked for, by id (`task:payments.pay`).

An action that is not here is decided by Cedar, every time. What is in which group stands in the
schema alone.
"""


class Verdict(NamedTuple):
    """What policy says.

    Attributes:
        allowed: whether a permit, and no forbid, is satisfied and no policy failed.
        policies: ids of the policies that decided, sorted: permits if allowed, else forbids.
        error: why nothing could be decided, one line of at most 300 characters; then not allowed.
            Empty otherwise.
    """

    allowed: bool
    policies: tuple[str, ...]
    error: str = ""


OnDifference = Callable[["Difference"], None]
"""Raises an alarm; must not raise an exception."""


class Difference(NamedTuple):
    """A remembered decision that Cedar does not confirm: a defect of the engine, never expected."""

    principal: str
    action: str
    resource: Uid
    context: Mapping[str, Any]
    remembered: Verdict
    computed: Verdict


class Counters(NamedTuple):
    """What an engine and those before it with the same policies have done.

    Attributes:
        hits: decisions that were remembered.
        misses: decided by Cedar, and remembered since.
        uncached: decided by Cedar, and not remembered.
        checked: hits that were decided by Cedar as well.
        differences: of those, the ones where Cedar said something else.
        entries: decisions, and who asked for what, in memory now.
        bytes: roughly, what those take.
    """

    hits: int
    misses: int
    uncached: int
    checked: int
    differences: int
    entries: int
    bytes: int
