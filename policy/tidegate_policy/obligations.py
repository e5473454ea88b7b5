"""Obligations: what a policy demands besides its verdict, written as annotations of Cedar.

    @rate_limit("100/1m per agent")
    @budget("usd:50/1d per team reserve 0.5")
    @require_approval("2 of ops.ann ops.bob ops.cy within 1h")
    @redact("/ssn /card/number")
    @shadow("")      decided and recorded, not enforced
    @learn("")       what nothing else permits is allowed, and marked as learned

Several of one kind stand in one annotation, with `;` between them. All policies that match a
message oblige: each limit must be kept, each approval be given, everything redacted. So the
strictest wins, and a plain permit beside an obliged one takes nothing away.

Windows begin at multiples of their length since 1970 (UTC), so that what was used of one follows
from the records since its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tidegate_schemas.errors import InvalidName
from tidegate_schemas.subjects import Principal

NANO = 1_000_000_000
"""Amounts are whole numbers of billionths, as fine as `costs` can say."""
MAX_WINDOW_SECONDS = 31 * 86400
_MAX_APPROVERS = 32
_MAX_POINTERS = 64

ANNOTATIONS = ("id", "rate_limit", "budget", "require_approval", "redact", "shadow", "learn")
"""Every key that a policy may bear."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AMOUNT = r"\d{1,15}(?:\.\d{1,9})?"
_LENGTH = r"[1-9]\d{0,8}[smhd]"
_SCOPE = r"(?: per (?P<scope>agent|team|run|bus))?"
_RATE = re.compile(rf"(?P<count>[1-9]\d{{0,8}})/(?P<window>{_LENGTH}){_SCOPE}", re.ASCII)
_BUDGET = re.compile(
    rf"(?P<unit>[a-z_]{{1,32}}):(?P<limit>{_AMOUNT})(?:/(?P<window>{_LENGTH}))?{_SCOPE}"
    rf"(?: reserve (?P<reserve>{_AMOUNT}))?",
    re.ASCII,
)
_APPROVAL = re.compile(
    rf"(?P<needed>[1-9]\d?) of (?P<whom>.+?)(?: within (?P<within>{_LENGTH}|never))?", re.ASCII
)
_POINTER = re.compile(r"(?:/(?:[^~/#\s]|~0|~1)+)+")
_DEFAULT_EXPIRY = "1d"


class Scope(StrEnum):
    """Who shares a limit."""

    AGENT = "agent"
    TEAM = "team"
    RUN = "run"
    BUS = "bus"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` messages in each window of `seconds`."""

    policy: str
    count: int
    seconds: int
    scope: Scope

    def __str__(self) -> str:
        window = _length(self.seconds)
        return f"rate_limit:{self.count}/{window} per {self.scope}#{self.policy}"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` of `unit` in each window, or in a run as a whole where `seconds` is 0.

    Attributes:
        unit: of `costs`; `messages` counts them, `seconds` is measured from task to result.
        limit, reserve: billionths of the unit.
        reserve: what a task takes before its result says what it cost.
    """

    policy: str
    unit: str
    limit: int
    seconds: int
    scope: Scope
    reserve: int

    def __str__(self) -> str:
        window = f"/{_length(self.seconds)}" if self.seconds else ""
        reserve = f" reserve {amount_text(self.reserve)}" if self.reserve else ""
        return (
            f"budget:{self.unit}:{amount_text(self.limit)}{window} per {self.scope}{reserve}"
            f"#{self.policy}"
        )


@dataclass(frozen=True, slots=True)
class Approval:
    """`needed` people must agree within `seconds`; 0 is without end.

    Attributes:
        who: `team.name` of those who may, `role <role>` or `team <team>`.
    """

    policy: str
    needed: int
    who: tuple[str, ...]
    seconds: int

    @property
    def asks(self) -> str:
        """For people: how many of whom, within what time."""
        within = _length(self.seconds) if self.seconds else "never"
        return f"{self.needed} of {' '.join(self.who)} within {within}"

    def __str__(self) -> str:
        return f"require_approval:{self.asks}#{self.policy}"


@dataclass(frozen=True, slots=True)
class Obligations:
    """What one policy demands, or several together."""

    rates: tuple[RateLimit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    approvals: tuple[Approval, ...] = ()
    redactions: tuple[tuple[str, str], ...] = ()
    """Policy and JSON pointer into the data (RFC 6901)."""
    shadow: bool = False
    learn: bool = False

    @property
    def pointers(self) -> tuple[str, ...]:
        """What is to be redacted."""
        return tuple(sorted({pointer for _, pointer in self.redactions}))

    def texts(self) -> tuple[str, ...]:
        """As they stand in a record: `kind:what#policy`, sorted."""
        return tuple(
            sorted(
                [
                    *map(str, (*self.rates, *self.budgets, *self.approvals)),
                    *(f"redact:{pointer}#{policy}" for policy, pointer in self.redactions),
                ]
            )
        )


NONE = Obligations()


def parse(effect: str, annotations: Mapping[str, str]) -> Obligations:
    """The obligations of one policy.

    Args:
        effect: `permit` or `forbid`.
        annotations: all of the policy's, its `id` among them.

    Raises:
        ValueError: one of them cannot be followed; the message names it and says how it is written.
    """
    policy = annotations["id"]
    if effect != "permit":
        for key in ("rate_limit", "budget", "require_approval", "redact", "learn"):
            if key in annotations:
                raise ValueError(f"@{key} obliges nobody on a forbid; put it on a permit")
    for key in ("shadow", "learn"):
        if annotations.get(key):
            raise ValueError(f'@{key} takes no text; write @{key}("") or @{key}')
    return Obligations(
        tuple(_rate(policy, text) for text in _texts(annotations, "rate_limit")),
        tuple(_budget(policy, text) for text in _texts(annotations, "budget")),
        tuple(_approval(policy, text) for text in _texts(annotations, "require_approval")),
        tuple((policy, pointer) for pointer in _pointers(annotations)),
        "shadow" in annotations,
        "learn" in annotations,
    )


def merge(several: Iterable[Obligations]) -> Obligations:
    """All of them together, each once. `shadow` and `learn` are of single policies, and left out.

    A policy that matches for a sender and for whom it sends on behalf of limits one message.
    """
    found = [one for one in several if one != NONE]
    if not found:
        return NONE
    return Obligations(
        tuple(dict.fromkeys(rate for one in found for rate in one.rates)),
        tuple(dict.fromkeys(budget for one in found for budget in one.budgets)),
        tuple(dict.fromkeys(approval for one in found for approval in one.approvals)),
        tuple(dict.fromkeys(redaction for one in found for redaction in one.redactions)),
    )


def read(text: str) -> RateLimit | Budget | Approval | None:
    """An obligation as it stands in a record; None for one that asks for nothing later (redact).

    Raises:
        ValueError: it is none.
    """
    what, _, policy = text.partition("#")
    kind, _, spec = what.partition(":")
    match kind:
        case "rate_limit":
            return _rate(policy, spec)
        case "budget":
            return _budget(policy, spec)
        case "require_approval":
            return _approval(policy, spec)
        case "redact":
            return None
        case _:
            raise ValueError(f"{text[:80]!r} is no obligation")


def amount(text: str) -> int:
    """Billionths, from a decimal number such as `0.02`."""
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0") or 0)


def amount_text(billionths: int) -> str:
    """The inverse of `amount`, as short as it can be."""
    whole, fraction = divmod(billionths, NANO)
    return f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")


def costs_of(text: str | None) -> dict[str, int]:
    """What `costs` of an envelope says, in billionths by unit; a unit named twice adds up."""
    found: dict[str, int] = {}
    for part in text.split(",") if text else ():
        unit, _, number = part.partition(":")
        found[unit] = found.get(unit, 0) + amount(number)
    return found


def _texts(annotations: Mapping[str, str], key: str) -> list[str]:
    if key not in annotations:
        return []
    return [text.strip() for text in annotations[key].split(";")]


def _rate(policy: str, text: str) -> RateLimit:
    found = _RATE.fullmatch(text)
    if not found:
        raise ValueError(f'@rate_limit({text[:80]!r}) is not like "100/1m per agent"')
    scope = Scope(found["scope"] or Scope.AGENT)
    return RateLimit(policy, int(found["count"]), _seconds("rate_limit", found["window"]), scope)


def _budget(policy: str, text: str) -> Budget:
    found = _BUDGET.fullmatch(text)
    if not found:
        raise ValueError(f'@budget({text[:80]!r}) is not like "usd:50/1d per team reserve 0.5"')
    unit, scope = found["unit"], Scope(found["scope"] or Scope.AGENT)
    if not found["window"] and scope is not Scope.RUN:
        raise ValueError(f"@budget({text!r}) has no window; write one such as /1d, or `per run`")
    reserve = amount(found["reserve"] or "0")
    if unit == "messages":
        if reserve:
            raise ValueError(f"@budget({text!r}): each message counts 1, there is no `reserve`")
        reserve = 0
    elif not reserve:
        raise ValueError(
            f"@budget({text!r}) says not what to reserve; without that a task could cost more "
            "than is left. Add e.g. `reserve 0.5`: the most that one task may cost"
        )
    if reserve > amount(found["limit"]):
        raise ValueError(f"@budget({text!r}) reserves more than there is; nothing would ever fit")
    seconds = _seconds("budget", found["window"]) if found["window"] else 0
    return Budget(policy, unit, amount(found["limit"]), seconds, scope, reserve)


def _approval(policy: str, text: str) -> Approval:
    found = _APPROVAL.fullmatch(text)
    if not found:
        example = "2 of ops.ann ops.bob ops.cy within 1h"
        raise ValueError(f'@require_approval({text[:80]!r}) is not like "{example}"')
    who = tuple(found["whom"].split())
    needed = int(found["needed"])
    if who[0] in ("role", "team"):
        if len(who) != 2:
            raise ValueError(f"@require_approval({text!r}): one {who[0]} after `{who[0]}`")
    else:
        try:
            names = {str(Principal.parse(name)) for name in who}
        except InvalidName as error:
            raise ValueError(f"@require_approval({text!r}): {error}") from None
        if len(names) != len(who) or needed > len(who) or len(who) > _MAX_APPROVERS:
            raise ValueError(
                f"@require_approval({text!r}): {needed} different people of these can never agree; "
                f"name at least {needed}, each once, at most {_MAX_APPROVERS}"
            )
    within = found["within"] or _DEFAULT_EXPIRY
    seconds = 0 if within == "never" else _seconds("require_approval", within)
    return Approval(policy, needed, who, seconds)


def _pointers(annotations: Mapping[str, str]) -> tuple[str, ...]:
    if "redact" not in annotations:
        return ()
    pointers = tuple(annotations["redact"].split())
    if not pointers or len(pointers) > _MAX_POINTERS:
        raise ValueError(f'@redact names 1 to {_MAX_POINTERS} fields, like "/ssn /card/number"')
    for pointer in pointers:
        if not _POINTER.fullmatch(pointer):
            raise ValueError(
                f"@redact: {pointer[:80]!r} is no JSON pointer such as /card/number, without #"
            )
    return pointers


def _seconds(key: str, text: str) -> int:
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if seconds > MAX_WINDOW_SECONDS:
        raise ValueError(f"@{key}: {text} is longer than 31d")
    return seconds


def _length(seconds: int) -> str:
    for unit in "dhm":
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
