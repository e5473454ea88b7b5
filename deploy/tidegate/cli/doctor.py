"""`tidegate doctor`: is everything as it should be, and if not, what to do."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.identities import current
from tidegate.processes import running
from tidegate.project import Project, address, check_blueprints, client_tls, open_project
from tidegate_bus import authority
from tidegate_bus.accounts import REGISTRAR
from tidegate_bus.connection import connect
from tidegate_bus.server import find_server
from tidegate_bus.tls import client_context
from tidegate_bus.topology import drift
from tidegate_policy.bundle import load_bundle
from tidegate_policy.invariants import Checker
from tidegate_schemas import subjects
from tidegate_schemas.errors import LedgerError, TidegateError
from tidegate_schemas.vocabulary import OPERATOR

from .console import JsonOption, ProjectOption, StateOption, clean, out, print_json, run

_STYLES = {"ok": "green", "failed": "red", "skipped": "yellow"}


def doctor(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Check whether everything is as it should be.

    This machine, the project, the running stack and the whole ledger. Exit status 1 when a check
    fails.
    """
    findings = run(_examine(project, state))
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


async def _examine(folder: Path | None, state: Path | None) -> list[Finding]:
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
    try:
        url = address(project.state)
    except TidegateError as error:
        return [*findings, Finding("stack", "skipped", str(error))]
    try:
        async for finding in _examine_stack(project, url, folder, state):
            findings.append(finding)  # noqa: PERF401 - an error must not lose what was found
    except TidegateError as error:
        findings.append(Finding("broker", "failed", str(error)))
    return findings


async def _examine_stack(
    project: Project, url: str, folder: Path | None, state: Path | None
) -> AsyncIterator[Finding]:
    try:
        bundle = load_bundle(project.state.bundle)
        yield Finding("policy", "ok", bundle.digest)
    except TidegateError as error:
        yield Finding("policy", "failed", str(error))
    healthy: dict[str, int] = {}
    for info in running(project.state):
        ok, detail = _health(info.telemetry)
        healthy[info.name] = healthy.get(info.name, 0) + 1
        yield Finding(f"process {info.name}", "ok" if ok else "failed", f"pid {info.pid}, {detail}")
    for name in ("gateway", "coordinator", *(str(m.principal) for m in project.manifests)):
        if name not in healthy:
            yield Finding(f"process {name}", "failed", "not running here")
    key, tls = project.state.keyring.path(REGISTRAR), client_tls(project.state)
    async with await connect(url, REGISTRAR, key, tls=tls) as connection:
        lines = await drift(connection, project.limits(), current(project).subscriptions())
        yield Finding("topology", "failed" if lines else "ok", "\n".join(lines) or "as declared")
        ingress = await connection.stream_state(subjects.ingress_stream(0))
    checker = Checker()
    async with await Bus.of_project(str(OPERATOR), folder, state) as bus:
        try:
            async for stored in bus.ledger.read():
                checker.add(stored)
        except LedgerError as error:
            yield Finding("ledger", "failed", str(error))
            return
    broken = checker.finish(quiet=False)
    if checker.last_ingress < ingress.last_seq and not broken:
        behind = ingress.last_seq - checker.last_ingress
        broken = [f"{behind} submissions have no record yet; is the gateway running?"]
    detail = f"{checker.records} records, {len(checker.open_tasks)} tasks in work"
    yield Finding("ledger", "failed" if broken else "ok", "\n".join(broken) or detail)


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


def _health(port: int) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return True, _facts(answer.read())
    except urllib.error.HTTPError as error:
        return False, _facts(error.read())
    except OSError as error:
        return False, f"does not answer: {error}"


def _facts(body: bytes) -> str:
    try:
        facts = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return "answers what is no health report"
    return ", ".join(f"{key} {value}" for key, value in facts.items() if key != "bundle")
