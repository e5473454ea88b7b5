"""Who is in which group: `entities.json` of the author, and the roster of the ledger.

    [{"uid": {"type": "Topic", "id": "card.read"}, "parents": [{"type": "Group", "id": "secret"}]}]

The file is in Cedar's JSON form and says parents only: what an agent is, the ledger says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import cedarpy
import msgspec

from tidegate_policy.engine import Entities, Uid
from tidegate_policy.roster import Roster

from .faults import Fault, meant, one_line

NAME = "entities.json"

_PARENTS = {
    "Group": ("Group",),
    "Team": ("Team", "Group"),
    "Agent": ("Team", "Group"),
    "Capability": ("Team", "Group"),
    "Topic": ("Group",),
    "Command": ("Group",),
}
"""What each type of entity may be in."""
_MAX_ID = 255


@dataclass(frozen=True, slots=True)
class Groups:
    """Whom the author has put where: the parents of each entity that the file names."""

    parents: Mapping[Uid, tuple[Uid, ...]] = field(default_factory=dict[Uid, tuple[Uid, ...]])

    def entities(self, roster: Roster) -> Entities:
        """Everybody of the roster and everything of the file.

        An agent of the file that is not in the roster does not take part, so it is left out.
        """
        found: dict[Uid, set[Uid]] = {}
        for member in roster.members.values():
            team = ("Team", member.principal.partition(".")[0])
            found.setdefault(team, set())
            found.setdefault(("Agent", member.principal), set()).add(team)
            for capability in member.capabilities:
                found.setdefault(("Capability", capability), set()).add(team)
        for uid, parents in self.parents.items():
            if uid[0] != "Agent" or uid in found:
                found.setdefault(uid, set()).update(parents)
                for parent in parents:
                    found.setdefault(parent, set())
        return {
            uid: (
                {"role": roster.members[uid[1]].role.value} if uid[0] == "Agent" else {},
                tuple(sorted(parents)),
            )
            for uid, parents in found.items()
        }

    def faults(self, schema: cedarpy.Schema) -> Iterator[Fault]:
        """What the engine does not take: a group inside of itself."""
        entities = [
            {
                "uid": _uid(uid),
                "attrs": {"role": ""} if uid[0] == "Agent" else {},
                "parents": [_uid(parent) for parent in parents],
            }
            for uid, parents in self.parents.items()
        ]
        try:
            cedarpy.Entities.from_json_str(json.dumps(entities), schema)
        except ValueError as error:
            hint = "a group must not be inside of itself" if "closure" in str(error) else ""
            yield Fault(NAME, 0, one_line(error), hint)


def read_groups(text: str) -> tuple[Groups, list[Fault]]:
    """Read `entities.json`; with its faults, each with its line."""
    faults: list[Fault] = []
    try:
        data: object = json.loads(text, object_pairs_hook=_unique)
        msgspec.json.decode(text)  # stricter about numbers and texts
    except json.JSONDecodeError as error:
        return Groups(), [Fault(NAME, error.lineno, f"malformed JSON: {error.msg}")]
    except (ValueError, RecursionError) as error:
        return Groups(), [Fault(NAME, 0, f"malformed JSON: {one_line(error)}")]
    if not isinstance(data, list):
        return Groups(), [Fault(NAME, 1, "not a list of entities", "see Cedar's entity JSON")]
    places = _Places(text)
    parents: dict[Uid, tuple[Uid, ...]] = {}
    for index, entity in enumerate(cast("list[object]", data)):
        line = places.line(index)
        try:
            uid, inside = _entity(entity)
            if uid in parents:
                raise _Wrong(f"{_shown(uid)} is there already", "say all its parents at once")
            parents[uid] = inside
        except _Wrong as wrong:
            faults.append(Fault(NAME, line, wrong.what, wrong.hint))
    return Groups(parents), faults


class _Wrong(Exception):
    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is given twice")
    return found


def _entity(entity: object) -> tuple[Uid, tuple[Uid, ...]]:
    if not isinstance(entity, dict):
        raise _Wrong("an entity is an object with `uid` and `parents`")
    members = cast("dict[str, object]", entity)
    if unknown := sorted(members.keys() - {"uid", "attrs", "parents", "tags"}):
        known = ("uid", "attrs", "parents")
        raise _Wrong(f"unknown field {unknown[0]!r}", meant(unknown[0], known))
    if members.get("attrs") or members.get("tags"):
        raise _Wrong(
            "attributes and tags are not the author's to give",
            "put it into a Group and ask `in Group::…`",
        )
    uid = _read_uid(members.get("uid"))
    parents = members.get("parents", [])
    if not isinstance(parents, list):
        raise _Wrong(f"`parents` of {_shown(uid)} is not a list")
    inside = tuple(sorted({_read_uid(parent) for parent in cast("list[object]", parents)}))
    for parent in inside:
        if parent[0] not in _PARENTS[uid[0]]:
            allowed = " or a ".join(_PARENTS[uid[0]])
            raise _Wrong(
                f"{_shown(uid)} cannot be in {_shown(parent)}",
                f"of type {uid[0]}, it may be in a {allowed}",
            )
    return uid, inside


def _read_uid(value: object) -> Uid:
    members = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if members.keys() == {"__entity"}:
        return _read_uid(members["__entity"])
    match members:
        case {"type": str(kind), "id": str(name)} if len(members) == 2:
            if kind not in _PARENTS:
                hint = meant(kind, _PARENTS) or f"there are {', '.join(_PARENTS)}"
                raise _Wrong(f"there is no type {kind!r}", hint)
            if not name.isprintable() or not 0 < len(name) <= _MAX_ID:
                raise _Wrong(f"an id is 1 to {_MAX_ID} printable characters")
            return kind, name
        case _:
            raise _Wrong('an entity is named as {"type": "Topic", "id": "card.read"}')


class _Places:
    """On which line each entity of the list begins, for JSON that is known to be well formed."""

    def __init__(self, text: str) -> None:
        self._lines: list[int] = []
        decoder = json.JSONDecoder()
        at, line, counted = text.index("[") + 1, 1, 0
        while True:
            while text[at] in " \t\r\n,":
                at += 1
            if text[at] == "]":
                return
            line += text.count("\n", counted, at)
            counted = at
            self._lines.append(line)
            at = decoder.raw_decode(text, at)[1]

    def line(self, index: int) -> int:
        return self._lines[index]


def _uid(uid: Uid) -> dict[str, str]:
    return {"type": uid[0], "id": uid[1]}


def _shown(uid: Uid) -> str:
    return f'{uid[0]}::"{uid[1]}"'
