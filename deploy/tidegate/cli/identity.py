"""`tidegate identity`: who may connect, and as what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from tidegate.identities import Wanted, current, ensure_keys, wanted
from tidegate.project import Project, open_project
from tidegate.rights import rights
from tidegate.tokens import Tokens
from tidegate_bus.identity.credentials import check_public_key, public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.register import Entry, Key
from tidegate_schemas.clock import parse_duration, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import Role, is_built_in
from tidegate_schemas.subjects import Principal, check_destination

from .console import JsonOption, ProjectOption, StateOption, clean, err, group, out, print_json
from .console import table as made_table
from .expiry import end_of
from .in_force import report, row

app = group("Say who may connect to the bus, and as what. A running stack follows at once.")

_SECOND = 1_000_000_000
_STYLES = {"active": "green", "revoked": "red", "expired": "yellow", "refused": "red"}


class _Given(StrEnum):
    """Roles that are given here."""

    AGENT = Role.AGENT.value
    PUBLISHER = Role.PUBLISHER.value
    OPERATOR = Role.OPERATOR.value


NameArgument = Annotated[str, typer.Argument(metavar="TEAM.NAME", help="The principal.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="U…",
        help="Public key of a seed that somebody else keeps; by default one is made here.",
    ),
]
PrintOption = Annotated[
    bool,
    typer.Option("--print", help="Print the seed, this once, and keep no copy of it."),
]


@app.command()
def add(
    name: NameArgument,
    role: Annotated[
        _Given | None,
        typer.Option(help="What it is; an agent if it takes or hears something."),
    ] = None,
    takes: Annotated[
        list[str] | None,
        typer.Option(metavar="CAPABILITY", help="Task that the agent takes; may be repeated."),
    ] = None,
    hears: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="Event that the agent hears; may be repeated."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it ends: 12h, 30d, or an RFC 3339 time."),
    ] = None,
    key: KeyOption = None,
    print_seed: PrintOption = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a principal in, or one that was revoked or has expired in again, with a new key.

    For an agent of the project whose manifest was written while the stack runs, its name is
    enough. For others, say what they are: an agent in another language, an outside system, a
    person.
    """
    here = open_project(project, state)
    who = Principal.parse(name)
    now = time.time_ns()
    if is_built_in(name):
        raise InvalidInput(f"{name}: the team {who.team} is the bus's own")
    takes, hears = list(dict.fromkeys(takes or ())), list(dict.fromkeys(hears or ()))
    chosen, declared = _role(here, name, role, bool(takes or hears))
    for destination in (*takes, *hears):
        check_destination(destination)
    end = end_of(expires, now)
    with here.state.register.edit() as entries:
        found = wanted(here, entries, now)
        if name in found.entries and found.entries[name].good(now):
            raise InvalidInput(
                f"{name} is there already; `tidegate identity rotate` renews its key"
            )
        _check_free(found, name, takes)
        made = _Made.of(here, who, key, print_seed, entries)
        entries[name] = Entry(
            principal=name,
            role=chosen,
            keys=(*_ended(entries.get(name), now), Key(made.public, rfc3339(now))),
            declared=declared,
            capabilities=tuple(takes),
            subscribes=tuple(hears),
            expires=None if end is None else rfc3339(end),
        )
    made.adopt()
    report(here, name, "added", as_json, seed=made.seed)


def _role(here: Project, name: str, role: _Given | None, works: bool) -> tuple[Role, bool]:
    """What somebody is to be, and whether the project's files say so.

    Raises:
        InvalidInput: nobody says it, or it does not fit to what else is said.
    """
    declared = {str(principal): r for principal, r in here.principals}.get(name)
    if declared:
        if (role and role.value != declared.value) or works:
            raise InvalidInput(
                f"{name} is declared in the project's files as {declared}; say it there"
            )
        return declared, True
    chosen = Role(role) if role else Role.AGENT if works else None
    if chosen is None:
        raise InvalidInput(f"say what {name} is: --role {'|'.join(_Given)}")
    if chosen is not Role.AGENT and works:
        raise InvalidInput("only agents take tasks and hear events")
    if chosen is Role.AGENT and not works:
        raise InvalidInput("an agent takes or hears something: --takes CAPABILITY, --hears TOPIC")
    return chosen, False


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List who may connect."""
    here = open_project(project, state)
    rows = [row(here, entry) for entry in current(here).entries.values()]
    if as_json:
        print_json(rows)
        return
    columns = ("principal", "role", "state", "key", "expires", "from")
    out.print(
        made_table(
            "",
            columns,
            (
                (
                    one["principal"],
                    one["role"],
                    f"[{_STYLES[one['state']]}]{one['state']}[/]",
                    f"{one['keys'][-1][:6]}…" if one["keys"] else None,
                    one["expires"] and one["expires"][:16].replace("T", " "),
                    one["from"].removeprefix("the "),
                )
                for one in rows
            ),
        )
    )
    there = {one["principal"] for one in rows}
    if missing := [str(who) for who, _ in here.principals if str(who) not in there]:
        count = f"{len(missing)} that the project and the bus need"
        err.print(f"not there yet: {count}; `tidegate up` makes their keys", highlight=False)


@app.command()
def show(
    name: NameArgument,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one identity: its keys, and everything it may do at the broker, in words."""
    here = open_project(project, state)
    entry = _entry(here, current(here), name)
    shown = row(here, entry)
    active = shown["state"] == "active"
    together = here.settings.server.mode == "operator"
    lines = rights(entry.who, entry.role, together=together) if active else []
    if as_json:
        print_json({**shown, "rights": lines, "key_file": str(here.state.keyring.path(entry.who))})
        return
    standing = f"[{_STYLES[shown['state']]}]{shown['state']}[/]"
    out.print(f"[bold]{clean(name)}[/bold]  {shown['role']}, {standing}")
    if shown["reason"]:
        out.print(f"  because {clean(shown['reason'])}", highlight=False, soft_wrap=True)
    for public in shown["keys"]:
        out.print(f"  key {public}", highlight=False, soft_wrap=True)
    if shown["keys"]:
        seed = clean(str(here.state.keyring.path(entry.who))) if shown["seed_here"] else "elsewhere"
        out.print(f"  its seed is {'in ' if shown['seed_here'] else ''}{seed}", soft_wrap=True)
    end = f", until {shown['expires']}" if shown["expires"] else ""
    out.print(
        f"  from {shown['from']}, since {shown['since']}{end}", highlight=False, soft_wrap=True
    )
    for what, values in (("takes", entry.capabilities), ("hears", entry.subscribes)):
        if values:
            out.print(f"  {what} {', '.join(values)}", soft_wrap=True)
    if not active:
        out.print("The broker does not know it.")
        return
    out.print("At the broker it may")
    for line in lines:
        out.print(f"  - {clean(line)}", highlight=False, soft_wrap=True)
    out.print("and nothing else. What becomes of what it submits, policy says.")


@app.command()
def rotate(
    name: NameArgument,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old key stays good.")
    ] = "10s",
    key: KeyOption = None,
    print_seed: PrintOption = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a principal a new key.

    The stack's own processes change to it by themselves. The old key ends after the overlap.
    """
    here = open_project(project, state)
    now = time.time_ns()
    if is_built_in(name) and (key is not None or print_seed):
        raise InvalidInput(f"the stack itself needs the seed of {name}: neither --key nor --print")
    try:
        end = rfc3339(now + int(parse_duration(overlap) * _SECOND))
    except ValueError as error:
        raise InvalidInput(f"--overlap: {error}") from None
    ensure_keys(here, now)
    with here.state.register.edit() as entries:
        entry = _entry(here, wanted(here, entries, now), name)
        if not entry.good(now):
            raise InvalidInput(f"{name} is {entry.state(now)}; `tidegate identity add` lets it in")
        made = _Made.of(here, entry.who, key, print_seed, entries)
        old = [msgspec.structs.replace(k, until=min(k.until or end, end)) for k in entry.keys]
        entries[name] = msgspec.structs.replace(
            entries[name], keys=(*old, Key(made.public, rfc3339(now)))
        )
    made.adopt()
    report(here, name, "rotated", as_json, seed=made.seed)


@app.command()
def revoke(
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")] = "",
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lock a principal out: its connections are cut; its keys and tokens are never good again.

    What waits for it stays and is delivered if it is ever added again.
    """
    here = open_project(project, state)
    who = Principal.parse(name)
    if is_built_in(name):
        raise InvalidInput(f"the bus does not work without {name}; `tidegate identity rotate` it")
    if not reason.isprintable():
        raise InvalidInput("--reason: one line of text")
    now = time.time_ns()
    ensure_keys(here, now)
    with here.state.register.edit() as entries:
        # Also one that nobody declares any more, and that is let in until the next change.
        entry = entries.get(name) or _entry(here, wanted(here, entries, now), name)
        if entry.revoked:
            raise InvalidInput(f"{name} is revoked already")
        entries[name] = msgspec.structs.replace(
            entries[name], revoked=rfc3339(now), reason=reason or "revoked"
        )
    here.state.keyring.forget(who)
    _forget_tokens(here, who)
    report(here, name, "revoked", as_json, keyed=False)


def _forget_tokens(here: Project, who: Principal) -> None:
    """Whoever has a token of a principal must not come in again with it when it is added again."""
    try:
        for token in Tokens(here.state.tokens).revoke_all(who):
            err.print(f"revoked its token {token.id}")
    except InvalidInput as error:  # a damaged file lets nobody in
        err.print(f"its tokens are not revoked: {error}")


class _Made:
    """A key that was made, or given, for a principal."""

    def __init__(self, here: Project, who: Principal, public: str, seed: str = "") -> None:
        self.public = public
        self.seed = seed
        self._state = here.state
        self._who = who

    @classmethod
    def of(
        cls,
        here: Project,
        who: Principal,
        key: str | None,
        print_seed: bool,
        entries: Mapping[str, Entry],
    ) -> _Made:
        if key is not None and print_seed:
            raise InvalidInput("--key and --print: a key that somebody else keeps has no seed here")
        if key is not None:
            check_public_key(key)
            for other in entries.values():
                if key in [known.public for known in other.keys]:
                    raise InvalidInput(f"--key: it is, or was, the key of {other.principal}")
            return cls(here, who, key)
        if print_seed:
            seed = new_seed()
            return cls(here, who, public_key(seed), seed)
        keyring = here.state.keyring
        if before := entries.get(str(who)):  # of somebody who is not done yet, or was killed
            keyring.adopt(who, before.keys[-1].public)
        return cls(here, who, keyring.propose(who))

    def adopt(self) -> None:
        """Once the register has the public key."""
        with self._state.register.edit():  # nobody proposes another one meanwhile
            self._state.keyring.adopt(self._who, self.public)


def _ended(entry: Entry | None, now: int) -> list[Key]:
    """The keys of an identity that was there before: they are never good again."""
    end = rfc3339(now)
    keys = entry.keys if entry else ()
    return [msgspec.structs.replace(key, until=min(key.until or end, end)) for key in keys]


def _check_free(found: Wanted, name: str, capabilities: list[str]) -> None:
    for other in found.entries.values():
        both = set(other.capabilities).intersection(capabilities)
        if both and other.principal != name and other.good(found.now):
            raise InvalidInput(f"{', '.join(sorted(both))} is taken by {other.principal} already")


def _entry(here: Project, found: Wanted, name: str) -> Entry:
    Principal.parse(name)
    if name in found.entries:
        return found.entries[name]
    if name in [str(who) for who, _ in here.principals]:
        raise InvalidInput(f"{name} is not there yet; `tidegate up` makes its key")
    raise InvalidInput(f"there is no {name}; `tidegate identity list` tells who is there")
