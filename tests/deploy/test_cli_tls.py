"""`tidegate tls`: make certificates, show them; and commands that meet others."""

from __future__ import annotations

import asyncio
import datetime
import shutil
from functools import partial
from pathlib import Path

import pytest

from tidegate import bus
from tidegate.project import load_project
from tidegate_bus.broker import authority
from tidegate_bus.broker.accounts import Identity, configuration
from tidegate_bus.broker.authority import create
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.tls import server_block
from tidegate_bus.connection import connect
from tidegate_schemas.identity import Role
from tidegate_schemas.vocabulary import OPERATOR

from .test_cli_alone import Program


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in a project."""
    monkeypatch.chdir(tmp_path)
    program = Program(monkeypatch, capsys)
    assert program("init", "hello").status == 0
    monkeypatch.chdir(tmp_path / "hello")
    return program


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Where the project's certificates are."""
    return tmp_path / "hello" / ".tidegate" / "tls"


def test_create_says_what_it_made_and_what_is_next(tidegate: Program, certificates: Path) -> None:
    """Every file with its path, the names of the broker, and the setting that uses them."""
    done = tidegate("tls", "create", "--host", "bus.example.com", "--host", "10.0.0.1")

    assert done.status == 0
    made = {line.strip() for line in done.out.splitlines() if line.startswith("  ")}
    assert made == {str(path) for path in certificates.iterdir()}
    assert len(made) == 6
    assert "is for localhost, 127.0.0.1, ::1, " in done.out
    assert "bus.example.com, 10.0.0.1." in done.out
    assert "Next: `server: {tls: mutual}` in tidegate.yaml" in done.out
    path = certificates.parents[1] / "tidegate.yaml"
    path.write_text(path.read_text() + "server: {tls: mutual}\n")
    assert "Next:" not in tidegate("tls", "create", "--renew").out


def test_create_writes_over_nothing(tidegate: Program, certificates: Path) -> None:
    """Neither what it made before, nor an authority of somebody else."""
    assert tidegate("tls", "create").status == 0
    before = {path: path.read_text() for path in certificates.iterdir()}
    again = tidegate("tls", "create", "--host", "bus.example.com")
    assert again.status == 2
    assert "--renew makes new certificates, of the same authority" in again.err
    (certificates / "authority.key").unlink()
    for arguments in ((), ("--renew",)):
        strange = tidegate("tls", "create", *arguments)
        assert strange.status == 2
        assert "authority.pem was not made here; nothing was written" in strange.err

    assert all(path.read_text() == before[path] for path in certificates.iterdir())


def test_renew_keeps_the_authority(tidegate: Program, certificates: Path) -> None:
    """What clients trust stays; the rest is new and for the same names, and a restart is due."""
    tidegate("tls", "create", "--host", "bus.example.com")
    before = {shown["file"]: shown for shown in tidegate("tls", "show", "--json").json}
    done = tidegate("tls", "create", "--renew")
    after = {shown["file"]: shown for shown in tidegate("tls", "show", "--json").json}

    assert done.status == 0
    assert "authority.pem" not in done.out
    same = [name for name in before if before[name]["sha256"] == after[name]["sha256"]]
    assert same == [str(certificates / "authority.pem")]
    server = str(certificates / "server.pem")
    assert before[server]["names"] == after[server]["names"]


def test_a_host_that_is_none_is_bad_input(tidegate: Program, certificates: Path) -> None:
    """Nothing is written."""
    done = tidegate("tls", "create", "--host", "a b")

    assert done.status == 2
    assert "'a b' is no name and no IP address" in done.err
    assert not certificates.exists()


def test_show_tells_whose_certificates_last_how_long(tidegate: Program, certificates: Path) -> None:
    """A table for people, JSON for programs."""
    tidegate("tls", "create")
    people, programs = tidegate("tls", "show"), tidegate("tls", "show", "--json")

    assert (people.status, programs.status) == (0, 0)
    for text in ("TLS is off", "authority.pem", "CN=tidegate server", "127.0.0.1", "364", "89"):
        assert text in people.out
    assert [Path(shown["file"]).name for shown in programs.json] == [
        *("authority.pem", "server.pem", "client.pem")
    ]
    trusted, server, client = programs.json
    assert (trusted["days_left"], server["days_left"], client["days_left"]) == (364, 89, 89)
    assert server["issuer"] == client["issuer"] == trusted["subject"]
    assert server["names"][:3] == ["localhost", "127.0.0.1", "::1"]
    assert datetime.datetime.fromisoformat(server["not_after"]).tzinfo == datetime.UTC


def test_show_fails_when_something_has_expired(tidegate: Program, certificates: Path) -> None:
    """So that a watchman can call it."""
    assert "`tidegate tls create` makes some" in tidegate("tls", "show").err
    create(certificates, now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=100))
    done, programs = tidegate("tls", "show"), tidegate("tls", "show", "--json")

    assert (done.status, programs.status) == (1, 1)
    assert done.out.count("expired") == 2
    assert [shown["days_left"] for shown in programs.json] == [264, -11, -11]


def test_certificates_are_where_the_settings_say(tidegate: Program, certificates: Path) -> None:
    """In a folder relative to the project, or in another state."""
    state = certificates.parents[2] / "state"
    assert tidegate("tls", "create", "--state", str(state)).status == 0
    path = certificates.parents[1] / "tidegate.yaml"
    path.write_text(path.read_text() + "server: {tls_folder: certificates}\n")
    assert tidegate("tls", "create").status == 0

    assert (state / "tls" / "server.pem").exists()
    assert (path.parent / "certificates" / "server.pem").exists()
    assert not certificates.exists()


def test_the_doctor_looks_at_certificates_where_they_are_used(
    tidegate: Program, certificates: Path
) -> None:
    """What is wrong with them, or how long they last; nothing while TLS is off."""
    now = datetime.datetime.now(datetime.UTC)
    assert "tls" not in {finding["check"] for finding in tidegate("doctor", "--json").json}
    path = certificates.parents[1] / "tidegate.yaml"
    path.write_text(path.read_text() + "server: {tls: mutual}\n")
    found: list[tuple[int, str, str]] = []
    for days in (None, 91, 80, 0):
        if days is not None:
            create(certificates, renew=days != 91, now=now - datetime.timedelta(days=days))
        done = tidegate("doctor", "--json")
        (finding,) = (finding for finding in done.json if finding["check"] == "tls")
        found.append((done.status, finding["status"], finding["detail"]))

    assert [(status, word) for status, word, _ in found] == [
        *((1, "failed"), (1, "failed"), (0, "ok"), (0, "ok"))
    ]
    for (_, _, detail), says in zip(
        found,
        (
            f"{certificates / 'server.pem'}: cannot be read",
            f"{certificates / 'server.pem'}: has expired",
            "mutual; server.pem ends in 9 days; renew it (`tidegate tls create --renew`",
            "mutual; server.pem ends in 89 days",
        ),
        strict=True,
    ):
        assert detail.startswith(says)
    assert "renew" not in found[-1][2]


async def test_commands_say_what_is_wrong_with_a_broker(
    tidegate: Program, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that its certificate has not, an authority that is not ours: neither is spoken to."""
    monkeypatch.setattr(bus, "connect", partial(connect, timeout=3.0))
    monkeypatch.setattr(authority, "LOCAL", ("bus.example.com",))
    create(certificates)
    state = load_project(certificates.parents[1]).state
    operator = Identity(OPERATOR, Role.OPERATOR, state.keyring.ensure(OPERATOR))
    text = configuration(
        [operator],
        store=state.store,
        store_bytes=2**30,
        tls=server_block(certificates, mutual=False),
    )
    state.server_configuration.write_text(text)
    async with await Server.start(state.server_configuration, state.logs / "server.log") as server:
        state.address.write_text(server.url)
        elsewhere = await publish(tidegate)
        shutil.rmtree(certificates)
        create(certificates)
        strange = await publish(tidegate)
        state.address.write_text(f"nats://127.0.0.1:{server.port}")
        clear = await publish(tidegate)

    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in elsewhere
    assert "not of the authority that we trust" in strange
    assert "the broker wants TLS; connect to tls://" in clear


async def publish(tidegate: Program) -> str:
    """The error of a command that does not reach the bus; it runs as a process would."""
    done = await asyncio.to_thread(tidegate, "publish", "x")
    assert done.status == 4
    return done.err
