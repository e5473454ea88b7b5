"""`tidegate identity`: who may connect, and as what."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from tidegate.identities import Wanted, current, ensure_keys, wanted
from tidegate.project import Project, open_project
from tidegate.reconciler import Applied, applied
from tidegate.rights import rights
from tidegate_bus.credentials import check_public_key, public_key
from tidegate_bus.keyring import new_seed
from tidegate_bus.register import Entry, Key
from tidegate_schemas.clock import parse_duration, parse_rfc3339, rfc3339
from tidegate_schemas.errors import Denied, InvalidInput, Unavailable
from tidegate_schemas.identity import GIVEN, Role, is_built_in
from tidegate_schemas.subjects import Principal, check_destination

from .console import JsonOption, ProjectOption, StateOption, clean, err, group, out, print_json
from .console import table as made_table

app = group("Say who may connect to the bus, and as what. A running stack follows at once.")

_APPLY_SECONDS = 15.0
_POLL_SECONDS = 0.05
_SECOND = 1_000_000_000
_STYLES = {"active": "green", "revoked": "red", "expired": "yellow", "refused": "red"}

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
        Role | None,
        typer.Option(help="agent, publisher or operator; by default what the project says."),
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
    """Let a principal in, or let one that was revoked in again, with a new key.

    For an agent of the project whose manifest was written while the stack runs, its name is
    enough. For others, say what they are: an agent in another language, an outside system, a
    person.
    """
    here = open_project(project, state)
    who = Principal.parse(name)
    now = time.time_ns()
    declared = {str(principal): r for principal, r in here.principals}.get(name)
    if declared and (role not in (None, declared) or takes or hears):
        raise InvalidInput(f"{name} is declared in the project's files as {declared}; say it there")
    if is_built_in(name) and not declared:
        raise InvalidInput(f"{name}: the team {who.team} is the bus's own")
    chosen = declared or role or (Role.AGENT if takes or hears else None)
    if chosen is None:
        raise InvalidInput(f"say what {name} is: --role {'|'.join(GIVEN)}")
    if declared is None and chosen not in GIVEN:
        raise InvalidInput(f"nobody is given the role {chosen}; there are {', '.join(GIVEN)}")
    if chosen is not Role.AGENT and (takes or hears):
        raise InvalidInput("only agents take tasks and hear events")
    if declared is None and chosen is Role.AGENT and not (takes or hears):
        raise InvalidInput("an agent takes or hears something: --takes CAPABILITY, --hears TOPIC")
    for destination in (*(takes or ()), *(hears or ())):
        check_destination(destination)
    _check_free(here, name, takes or [])
    with here.state.register.edit() as entries:
        before = entries.get(name)
        if before and before.good(now):
            raise InvalidInput(
                f"{name} is there already; `tidegate identity rotate` renews its key"
            )
        made = _Made.of(here, who, key, print_seed, entries)
        entries[name] = Entry(
            principal=name,
            role=chosen,
            keys=(*_ended(before, now), Key(made.public, rfc3339(now))),
            declared=declared is not None,
            capabilities=tuple(takes or ()),
            subscribes=tuple(hears or ()),
            expires=_time(expires, now),
        )
    made.adopt()
    _report(here, name, "added", made, as_json)


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List who may connect."""
    here = open_project(project, state)
    rows = [_row(here, entry) for entry in current(here).entries.values()]
    if as_json:
        print_json(rows)
        return
    columns = ("principal", "role", "state", "key", "since", "expires", "from")
    out.print(
        made_table(
            "",
            columns,
            (
                (
                    row["principal"],
                    row["role"],
                    f"[{_STYLES[row['state']]}]{row['state']}[/]",
                    f"{row['keys'][-1][:8]}…" if row["keys"] else None,
                    row["since"][:10],
                    row["expires"] and row["expires"][:16],
                    row["from"],
                )
                for row in rows
            ),
        )
    )


@app.command()
def show(
    name: NameArgument,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one identity: its keys, and everything it may do at the broker, in words."""
    here = open_project(project, state)
    entry = _entry(current(here), name)
    row = _row(here, entry)
    lines = rights(entry.who, entry.role)
    if as_json:
        print_json({**row, "rights": lines, "key_file": str(here.state.keyring.path(entry.who))})
        return
    out.print(
        f"[bold]{clean(name)}[/bold]  {row['role']}, [{_STYLES[row['state']]}]{row['state']}[/]"
    )
    if row["reason"]:
        out.print(f"  because {clean(row['reason'])}")
    for public in row["keys"]:
        out.print(f"  key {public}", highlight=False)
    path = here.state.keyring.path(entry.who)
    out.print(f"  seed {clean(str(path)) if path.exists() else 'kept elsewhere'}", highlight=False)
    for what, values in (("takes", entry.capabilities), ("hears", entry.subscribes)):
        if values:
            out.print(f"  {what} {', '.join(values)}")
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
    try:
        end = rfc3339(now + int(parse_duration(overlap) * _SECOND))
    except ValueError as error:
        raise InvalidInput(f"--overlap: {error}") from None
    ensure_keys(here, now)
    with here.state.register.edit() as entries:
        entry = _entry(wanted(here, entries, now), name)
        if not entry.good(now):
            raise InvalidInput(f"{name} is {entry.state(now)}; `tidegate identity add` lets it in")
        made = _Made.of(here, entry.who, key, print_seed, entries)
        old = [msgspec.structs.replace(k, until=min(k.until or end, end)) for k in entry.keys]
        entries[name] = msgspec.structs.replace(
            entries[name], keys=(*old, Key(made.public, rfc3339(now)))
        )
    made.adopt()
    _report(here, name, "rotated", made, as_json)


@app.command()
def revoke(
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")] = "",
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lock a principal out: its connections are cut, and its keys are never good again.

    What waits for it stays and is delivered if it is ever added again.
    """
    here = open_project(project, state)
    who = Principal.parse(name)
    if is_built_in(name):
        raise InvalidInput(f"the bus does not work without {name}; `tidegate identity rotate` it")
    now = time.time_ns()
    ensure_keys(here, now)
    with here.state.register.edit() as entries:
        entry = _entry(wanted(here, entries, now), name)
        if entry.revoked:
            raise InvalidInput(f"{name} is revoked already")
        entries[name] = msgspec.structs.replace(
            entries[name], revoked=rfc3339(now), reason=reason or "revoked"
        )
    here.state.keyring.forget(who)
    _report(here, name, "revoked", None, as_json)


class _Made:
    """A key that was made, or given, for a principal."""

    def __init__(self, here: Project, who: Principal, public: str, seed: str = "") -> None:
        self.public = public
        self.seed = seed
        self._keyring = here.state.keyring
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
        if key and print_seed:
            raise InvalidInput("--key and --print: a key that somebody else keeps has no seed here")
        if key:
            for other in entries.values():
                if key in [known.public for known in other.keys]:
                    raise InvalidInput(f"--key: it is, or was, the key of {other.principal}")
            return cls(here, who, check_public_key(key))
        if print_seed:
            seed = new_seed()
            return cls(here, who, public_key(seed), seed)
        return cls(here, who, here.state.keyring.propose(who))

    def adopt(self) -> None:
        """Once the register has the public key."""
        self._keyring.adopt(self._who, self.public)


def _ended(entry: Entry | None, now: int) -> list[Key]:
    """The keys of an identity that was there before: they are never good again."""
    end = rfc3339(now)
    keys = entry.keys if entry else ()
    return [msgspec.structs.replace(key, until=min(key.until or end, end)) for key in keys]


def _check_free(here: Project, name: str, capabilities: list[str]) -> None:
    for other in current(here).entries.values():
        both = set(other.capabilities).intersection(capabilities)
        if both and other.principal != name and not other.revoked:
            raise InvalidInput(f"{', '.join(sorted(both))} is taken by {other.principal} already")


def _entry(found: Wanted, name: str) -> Entry:
    Principal.parse(name)
    if name not in found.entries:
        raise InvalidInput(f"there is no {name}; `tidegate identity list` tells who is there")
    return found.entries[name]


def _time(text: str | None, now: int) -> str | None:
    if text is None:
        return None
    try:
        if re.fullmatch(r"[\d.]+[a-z]+", text):
            return rfc3339(now + int(parse_duration(text) * _SECOND))
        time_ = parse_rfc3339(text)
    except ValueError as error:
        raise InvalidInput(f"--expires: {error}") from None
    if time_ <= now:
        raise InvalidInput(f"--expires: {text} is over")
    return rfc3339(time_)


def _row(here: Project, entry: Entry) -> dict[str, Any]:
    now = time.time_ns()
    done = applied(here.state)
    state = entry.state(now)
    reason = entry.reason
    if done and state == "active" and entry.principal in done.refused:
        state, reason = "refused", done.refused[entry.principal]
    source = "the bus" if is_built_in(entry.principal) else "the register"
    if not is_built_in(entry.principal) and entry.declared:
        source = "the project"
    return {
        "principal": entry.principal,
        "role": entry.role.value,
        "state": state,
        "reason": reason,
        "keys": list(entry.good(now)),
        "since": entry.keys[-1].since,
        "expires": entry.expires,
        "capabilities": list(entry.capabilities),
        "subscribes": list(entry.subscribes),
        "from": source,
    }


def _report(here: Project, name: str, what: str, made: _Made | None, as_json: bool) -> None:
    """Say what was done, once it is in force where a stack runs."""
    seed = made.seed if made else ""
    if seed and not as_json:
        sys.stdout.write(seed + "\n")  # before anything can fail: nobody else has it
        sys.stdout.flush()
    in_force = _until_applied(here)
    if as_json:
        row = _row(here, current(here).entries[name])
        print_json({**row, "in_force": in_force is not None, **({"seed": seed} if seed else {})})
    if in_force and name in in_force.refused:
        raise Denied("refused", in_force.refused[name], 0, ())
    if as_json:
        return
    where = "in force" if in_force else "in force when the stack starts"
    err.print(f"[green]{what}[/green] {clean(name)}; {where}", highlight=False)
    keyring, who = here.state.keyring, Principal.parse(name)
    if made and not seed:
        for what, path in (("key", keyring.path(who)), ("token", keyring.token_path(who))):
            if path.exists():
                err.print(f"its {what} is in {clean(str(path))}", highlight=False)


def _until_applied(here: Project) -> Applied | None:
    """Wait for the running stack; None where none runs.

    Raises:
        Unavailable: it does not apply what the register says; its output says why.
    """
    version = here.state.register.version()
    deadline = time.monotonic() + _APPLY_SECONDS
    while here.state.address.exists():
        done = applied(here.state)
        if done and done.register == version:
            return done
        if time.monotonic() > deadline:
            raise Unavailable(
                f"written to {here.state.register.path}, but the running stack has not applied it "
                f"after {_APPLY_SECONDS:g} s; the output of `tidegate up` says why"
            )
        time.sleep(_POLL_SECONDS)
    return None
