"""What operators and approvers say to the gateway, and how the ledger keeps it.

policy.propose      control: a bundle; from here on the ledger has it, for ever
policy.activate     control: the bundle in force from the next record on
approval.grant      control: somebody agrees to a message that is held
approval.refuse     control: somebody does not
control.pause       control: new work for the target is parked
control.resume      control: it is not any more, and what was parked goes on in order
control.quarantine  control: what comes from the target or goes to it is parked
control.kill        control: what comes from the target or goes to it is denied
control.release     control: ends a quarantine or a kill
privacy.erase       control: the keys of a data subject are destroyed
privacy.hold        control: they must be kept, whatever else is said
privacy.release     control: ends that
privacy.expire      control, by the gateway: keys of months before one are destroyed
clock.tick          control, by the gateway: time has passed, and with it what waits in vain
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec

from .errors import InvalidEnvelope, InvalidName
from .identity import is_built_in
from .subjects import Principal, check_destination

_DIGEST = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[str, msgspec.Meta(pattern=_DIGEST)]
Sequence = Annotated[int, msgspec.Meta(ge=1)]
Pseudonym = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Month = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
Said = Annotated[str, msgspec.Meta(max_length=1000)]
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_MAX_RUN = 256


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of `policy.propose`: the files of a bundle, text by name."""

    files: dict[str, str]


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle would have changed, see `tidegate policy diff`.

    Attributes:
        digest: of the whole report, as canonical JSON.
        before, after: the bundles that were compared.
        first, last: ledger sequences of the window.
        newly_allowed, newly_denied, newly_held, indeterminate: records.
    """

    digest: Digest
    before: Digest
    after: Digest
    first: int
    last: int
    newly_allowed: int
    newly_denied: int
    newly_held: int
    indeterminate: int


class Activation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `policy.activate`. `report` says what the change does, where that is demanded."""

    bundle: Digest
    reason: Said = ""
    report: Report | None = None


class Opinion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `approval.grant` and `approval.refuse`: about one message, under one policy.

    Attributes:
        hold: sequence of the record that holds it.
        message: digest of the envelope in that record.
        bundle: the bundle in force, under which it was looked at.
        blueprint: digest of the blueprint that it belongs to, if it does to one.
    """

    hold: Sequence
    message: Digest
    bundle: Digest
    blueprint: str = ""
    reason: Said = ""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `control.*`. `target` is one of the forms of `Target`."""

    target: str
    reason: Said = ""


class DataSubject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `privacy.erase`, `.hold` and `.release`: whose data, by pseudonym, see `personal`."""

    subject: Pseudonym
    reason: Said = ""


class Expiry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of `privacy.expire`: the first month (`2026-01`) that is kept."""

    before: Month


class What(StrEnum):
    """What can be controlled."""

    BUS = "bus"
    TEAM = "team"
    AGENT = "agent"
    CAPABILITY = "capability"
    BLUEPRINT = "blueprint"
    RUN = "run"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a control is about.

    Written as `bus`, `team:x`, `agent:x.y`, `capability:a.b`, `blueprint:x` or `run:id`.
    """

    what: What
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what}:{self.name}" if self.name else str(self.what)

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read one.

        Raises:
            InvalidEnvelope: code `data`; it is none, or one of the bus's own parts.
        """
        word, _, name = text.partition(":")
        try:
            target = cls(What(word), name)
            good = target._names_something() and text == str(target)
        except (ValueError, InvalidName):
            target, good = cls(What.BUS), False
        if not good:
            raise InvalidEnvelope(
                "data",
                f"{text[:80]!r} is no target; write bus, team:NAME, agent:TEAM.NAME, "
                "capability:NAME, blueprint:NAME or run:ID",
            )
        if target.what in (What.TEAM, What.AGENT) and is_built_in(name):
            raise InvalidEnvelope("data", f"{name}: the bus's own parts cannot be controlled")
        return target

    def _names_something(self) -> bool:
        match self.what:
            case What.BUS:
                return not self.name
            case What.TEAM | What.BLUEPRINT:
                return bool(_NAME.fullmatch(self.name))
            case What.AGENT:
                return bool(Principal.parse(self.name))
            case What.CAPABILITY:
                return bool(check_destination(self.name))
            case What.RUN:
                return 0 < len(self.name) <= _MAX_RUN and self.name.isprintable()
