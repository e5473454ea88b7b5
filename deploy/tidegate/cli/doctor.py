"""`tidegate doctor`: is everything as it should be, and if not, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from tidegate.access import body
from tidegate.broker_drift import broker_drift
from tidegate.bus import Bus
from tidegate.deliveries import misaligned
from tidegate.evidence_report import evidence_lines
from tidegate.faces import console_faults, edge_faults
from tidegate.governance import standing
from tidegate.guards import victim
from tidegate.identities import Wanted, current
from tidegate.policies import shelf
from tidegate.processes import running
from tidegate.project import (
    SETTINGS,
    Project,
    address,
    check_blueprints,
    client_tls,
    open_project,
    placed,
)
from tidegate.reconciler import applied, roster
from tidegate.rights import summary
from tidegate.vitals import ask
from tidegate_bus.broker import authority
from tidegate_bus.broker.accounts import NOTARY, PROBE, REGISTRAR
from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_bus.broker.server import find_server
from tidegate_bus.broker.tls import client_context
from tidegate_bus.broker.topology import drift
from tidegate_bus.connection import connect
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.watch.probe import probe as attempt_bypasses
from tidegate_policy.bundle import load_bundle
from tidegate_policy.controls import Controls
from tidegate_policy.invariants import Checker
from tidegate_schemas import subjects
from tidegate_schemas.errors import LedgerError, Problem, TidegateError
from tidegate_schemas.vocabulary import OPERATOR

from .console import JsonOption, ProjectOption, StateOption, clean, out, print_json, run

_STYLES = {"ok": "green", "failed": "red", "skipped": "yellow"}


def doctor(
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Also try to get past the gateway, as the bus's own probe."),
    ] = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether everything is as it should be.

    This machine, the project, the running stack, what each identity may do, and the whole ledger.
    Exit status 1 when a check fails.
    """
    findings = run(_examine(project, state, probe))
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            indented = clean(finding.detail).replace("\n", f"\n{'':{width + 9}}")
            mark = f"[{_STYLES[finding.status]}]{finding.status:<7}[/]"
            out.print(
                f"{mark} {finding.check:<{width}} {indented}", soft_wrap=True, highlight=False
            )
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


class Finding(msgspec.Struct, frozen=True):
    """One check: `ok`, `failed` or `skipped`, and what was found."""

    check: str
    status: str
    detail: str


async def _examine(folder: Path | None, state: Path | None, probe: bool) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.append(Finding("nats-server", "ok", str(await find_server())))
    except TidegateError as error:
        findings.append(Finding("nats-server", "failed", str(error)))
    try:
        project = open_project(folder, state)
        check_blueprints(project)
    except TidegateError as error:
        return [*findings, Finding("project", "failed", str(error))]
    findings.append(
        Finding(
            "project",
            "ok",
            f"{project.settings.project}: {len(project.manifests)} agents, "
            f"{len(project.blueprints)} blueprints",
        )
    )
    findings.extend(_certificates(project))
    findings.extend(_faces(project))
    try:
        url = address(project.state)
    except TidegateError as error:
        return [*findings, Finding("stack", "skipped", str(error))]
    try:
        async for finding in _examine_stack(project, url, folder, state):
            findings.append(finding)  # noqa: PERF401 - an error must not lose what was found
        if probe:
            findings.append(await _probe(project, url, folder, state))
    except TidegateError as error:
        findings.append(Finding("broker", "failed", str(error)))
    return findings


async def _examine_stack(
    project: Project, url: str, folder: Path | None, state: Path | None
) -> AsyncIterator[Finding]:
    yield await _policy(project)
    healthy: dict[str, int] = {}
    faces = {"edge": project.state.edge_url, "console": project.state.console_url}
    for info in running(project.state):
        vital = ask(info.telemetry)
        healthy[info.name] = healthy.get(info.name, 0) + 1
        status, detail = "ok" if vital.healthy else "failed", f"pid {info.pid}, {vital.words}"
        if written := faces.get(info.name):
            where = _address(written)
            status = status if where else "failed"
            detail += f", {where or f'but its address is not in {written}; start it again'}"
        yield Finding(f"process {info.name}", status, detail)
    for name in sorted(faces.keys() - healthy.keys()):
        if where := _address(faces[name]):
            detail = f"it was at {where} and ended unexpectedly; `tidegate {name}` starts it"
            yield Finding(f"process {name}", "failed", detail)
        else:
            detail = f"not running here; `tidegate {name}` starts it"
            yield Finding(f"process {name}", "skipped", detail)
    who = current(project)
    known = {str(user.principal) for user in who.users()}
    agents = (str(m.principal) for m in project.manifests)
    for name in (
        "stack",
        "gateway",
        "notary",
        "coordinator",
        *(n for n in agents if n in known or n not in who.entries),
    ):
        if name not in healthy:
            yield Finding(f"process {name}", "failed", "not running here")
    yield await _access(project, who)
    for finding in _identities(project, who):
        yield finding
    key, tls = project.state.keyring.path(REGISTRAR), client_tls(project.state)
    async with await connect(url, REGISTRAR, key, tls=tls) as connection:
        lines = await drift(connection, project.limits(), who.subscriptions())
        yield Finding("topology", "failed" if lines else "ok", "\n".join(lines) or "as declared")
        ingress = await connection.stream_state(subjects.ingress_stream(0))
        fed = await feeds(connection)
    checker, newest = Checker(), 0
    async with await Bus.of_project(str(OPERATOR), folder, state) as bus:
        try:
            yield _controls((await standing(bus.ledger))[0], fed)
            async for stored in bus.ledger.read():
                checker.add(stored)
                newest = stored.stored
        except LedgerError as error:
            yield Finding("ledger", "failed", str(error))
            return
    broken = checker.finish(quiet=False)
    if checker.last_ingress < ingress.last_seq and not broken:
        behind = ingress.last_seq - checker.last_ingress
        broken = [f"{behind} submissions have no record yet; is the gateway running?"]
    detail = f"{checker.records} records, {len(checker.open_tasks)} tasks in work"
    yield Finding("ledger", "failed" if broken else "ok", "\n".join(broken) or detail)
    key = project.state.keyring.path(NOTARY)
    async with await connect(url, NOTARY, key, tls=tls) as connection:
        for line in await evidence_lines(project, connection, checker.records, newest):
            yield Finding(line.check, "ok" if line.ok else "failed", line.detail)


def _address(written: Path) -> str:
    """Where an HTTP face says that it listens; empty where none does."""
    try:
        return written.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def _controls(controls: Controls, fed: list[Feed]) -> Finding:
    """What operators have stopped, and whether deliveries follow."""
    stopped = [f"{target} {level.word}" for target, level in controls.levels.items()]
    detail = ", ".join(sorted(stopped)) or "nothing is stopped"
    wrong = [
        f"{feed.principal} gets {'nothing, but is not stopped' if feed.paused else 'deliveries'}"
        for feed in misaligned(controls, fed)
    ]
    return Finding("controls", "failed" if wrong else "ok", "\n".join([detail, *wrong]))


async def _policy(project: Project) -> Finding:
    """Which policies are in force, and whether they are those of the project."""
    try:
        async with await Bus.of_project(str(OPERATOR), project.root, project.state.folder) as bus:
            known = await shelf(bus.ledger)
    except TidegateError as error:
        return Finding("policy", "failed", str(error))
    try:
        written = load_bundle(project.policy).digest
    except TidegateError as error:
        return Finding("policy", "failed", f"{known.active} is in force; the folder has\n{error}")
    if written == known.active:
        return Finding("policy", "ok", f"{known.active}, as in {project.policy}")
    detail = f"{known.active} is in force; {project.policy} has {written}: `tidegate policy diff`"
    return Finding("policy", "ok", f"{detail}, then `tidegate policy activate`")


_MODES = {
    "static": "the broker's configuration lists who may connect, each in an account of their own",
    "operator": "who has a signed token may connect; revocations are pushed to the broker",
}


async def _access(project: Project, who: Wanted) -> Finding:
    """How the broker learns who may connect, and whether it knows what it should."""
    state, mode = project.state, project.settings.server.mode
    port = urlsplit(address(state)).port or 0
    done = applied(state)
    lines: list[str] = []
    if done is None or done.register != state.register.version():
        lines.append(f"{state.register.path} is not applied; `tidegate up` says why, if it runs")
    else:
        async with await Bus.of_project(str(OPERATOR), project.root, state.folder) as bus:
            admitted = who.admitted(done.refused, (await roster(bus.ledger)).members)
        should = body(project, admitted, port, project.server_tls())
        log = state.server_log
        path, pushed = state.server_configuration, mode == "operator"
        lines += await broker_drift(path, log, should, admitted, pushed=pushed)
    if lines:
        return Finding("access", "failed", "\n".join([f"{mode} mode", *lines]))
    return Finding("access", "ok", f"{mode} mode: {_MODES[mode]}")


def _identities(project: Project, who: Wanted) -> Iterator[Finding]:
    done = applied(project.state)
    declared = {str(principal) for principal, _ in project.principals}
    for name in sorted(declared - who.entries.keys()):
        if done:
            detail = f"declared, and not let in yet: `tidegate identity add {name}`"
            yield Finding(f"identity {name}", "failed", detail)
    for name, entry in sorted(who.entries.items()):
        state = entry.state(who.now)
        if done and name in done.refused:
            yield Finding(f"identity {name}", "failed", f"refused: {done.refused[name]}")
        elif state != "active":
            yield Finding(f"identity {name}", "skipped", f"{state}: may not connect")
        else:
            detail = f"{entry.role}: may {summary(entry.who, entry.role)}"
            yield Finding(f"identity {name}", "ok", detail)


async def _probe(project: Project, url: str, folder: Path | None, state: Path | None) -> Finding:
    """Try to get past the gateway, once."""
    tls = client_tls(project.state)
    async with await Bus.of_project(str(OPERATOR), folder, state) as bus:
        report = await attempt_bypasses(
            url,
            Credentials.of(project.state.keyring.path(PROBE)),
            victim=victim(current(project)),
            reader=bus.ledger,
            tls=client_context(tls) if tls else None,
        )
    bad = [f"{a.name}: {a.detail}" for a in report.attempts if a.through is not False]
    if report.through:
        head = f"the gateway can be bypassed; ledger record {report.alarm} says so"
        return Finding("probe", "failed", "\n".join([head, *bad]))
    if report.inconclusive:
        return Finding("probe", "failed", "\n".join(["not everything could be tried", *bad]))
    return Finding("probe", "ok", f"{len(report.attempts)} attempts, all refused")


def _certificates(project: Project) -> list[Finding]:
    """Whether broker and clients can use their certificates; nothing where TLS is off."""
    try:
        if project.server_tls() is None:
            return []
        client_context(project.tls_folder)
        first = min(authority.examine(project.tls_folder), key=lambda found: found.ends)
    except TidegateError as error:
        return [Finding("tls", "failed", str(error))]
    days = first.days_left()
    detail = f"{project.settings.server.tls}; {first.path.name} ends in {days} days"
    if days < authority.SOON_DAYS:
        detail += "; renew it (`tidegate tls create --renew`, for development)"
    return [Finding("tls", "ok", detail)]


def _faces(project: Project) -> Iterator[Finding]:
    """Whether edge and console can use the files that their settings name."""
    edge, console = project.settings.edge, project.settings.console
    if edge.tls or edge.webhooks or edge.oidc:
        elsewhere = [
            f"webhook {name}: {own.secret_env} is in the edge's environment only"
            for name, own in edge.webhooks.items()
            if own.secret_env
        ]
        yield _face(project, "edge", edge_faults(project, None), elsewhere)
    if console.tls:
        yield _face(project, "console", console_faults(project), [])


def _face(project: Project, name: str, faults: Iterable[Problem], more: list[str]) -> Finding:
    if found := list(faults):
        return Finding(name, "failed", str(placed(project.root / SETTINGS, found)))
    return Finding(name, "ok", "\n".join(["what its settings name can be used", *more]))
