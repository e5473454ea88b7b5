"""The local stack with TLS: every process and every command speaks it, or says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from support import OPERATOR, until
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.project import client_tls, load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.authority import create
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, NotConnected
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import RUN_FINISHED

from .test_cli import Shell, bytecode

WEBSITE = Principal("outside", "website")


@pytest.fixture
def tidegate(tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in a project."""
    init(tmp_path / "hello")
    shell = Shell(tmp_path / "hello", bytecode(pytestconfig))
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.setenv(name, shell.environment[name])
    return shell


def turn(folder: Path, tls: str, more: str = "") -> None:
    """Set TLS of a project."""
    settings = folder / "tidegate.yaml"
    text = settings.read_text().partition("\nserver:")[0]
    settings.write_text(f"{text.rstrip()}\nserver: {{tls: {tls}{more}}}\n")


async def greeted(website: Bus, operator: Bus, name: str) -> Any:
    """What a run says that is started by an event."""
    receipt = await website.publish(
        Envelope.new("greeting.requested", {"name": name}, correlationid=name)
    )
    async for record in operator.records(receipt.seq, follow=True):
        message = record.message()
        if record.to == RUN_FINISHED and message and message.correlationid == name:
            return message.payload()["output"]
    raise AssertionError("unreachable")


@pytest.mark.timeout(180)
async def test_a_whole_stack_works_with_mutual_tls(tidegate: Shell, tmp_path: Path) -> None:
    """Publishers, agents, commands and the doctor; also after its certificates were renewed.

    Settings that are changed meanwhile take effect with the next start, not with the next reload:
    clients would not know.
    """
    folder = tidegate.folder
    turn(folder, "mutual")
    assert tidegate("tls", "create").status == 0
    async with Stack(load_project(folder)) as stack:
        state = stack.project.state
        assert stack.server.url == state.address.read_text().strip()
        assert stack.server.url.startswith("tls://127.0.0.1:")
        async with (
            await Bus.of_project(str(WEBSITE), folder) as website,
            await Bus.of_project(str(OPERATOR), folder) as operator,
        ):
            assert await greeted(website, operator, "Ada") == "Hello, Ada!"
            turn(folder, "off")
            done = await asyncio.to_thread(
                tidegate, "identity", "add", "outside.partner", "--role", "publisher"
            )
            assert done.status == 0, done.err
            create(state.tls, renew=True)
            server = stack.server.pid
            os.kill(server, signal.SIGKILL)
            await until(lambda: stack.server.pid != server)
            assert await greeted(website, operator, "Eve") == "Hello, Eve!"
        assert stack.server.url.startswith("tls://127.0.0.1:")
        key = state.keyring.path(Principal("outside", "partner"))
        outside = await Bus.connect(stack.server.url, "outside.partner", key, tls=state.tls)
        await outside.close()
        stale = await asyncio.to_thread(tidegate, "doctor")
        turn(folder, "mutual")
        findings = await asyncio.to_thread(tidegate, "doctor", "--json")
        agents = await asyncio.to_thread(tidegate, "agent", "list", "--json")
        (tmp_path / "bare").mkdir()
        shutil.copy(state.tls / "authority.pem", tmp_path / "bare")
        with pytest.raises(NotConnected, match="does not accept our certificate"):
            await Bus.connect(stack.server.url, "outside.partner", key, tls=tmp_path / "bare")

    assert (stale.status, findings.status) == (1, 0), findings.out
    assert (
        "tls is another block of settings, wanted not set" in stale.out
    )  # what is set is not what runs
    assert [agent["results"] for agent in agents.json] == [2]


async def test_certificates_may_be_in_a_folder_of_the_project(
    tidegate: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients find them from the state alone; without mutual, the authority is all they need."""
    folder = tidegate.folder
    turn(folder, "server", ", tls_folder: conf/certificates")
    create(folder / "conf" / "certificates")
    for name in ("client.pem", "client.key", "authority.key"):
        (folder / "conf" / "certificates" / name).unlink()
    monkeypatch.chdir(folder.parent)
    async with Stack(load_project(Path("hello")), agents=()) as stack:
        state = stack.project.state
        assert client_tls(state) == folder / "conf" / "certificates"
        done = await asyncio.to_thread(tidegate, "publish", "greeting.requested", "{}")

        assert done.status == 0, done.err
        assert not state.tls.exists()


@pytest.mark.parametrize("mode", ["server", "mutual"])
async def test_a_stack_without_certificates_does_not_start(tidegate: Shell, mode: str) -> None:
    """The file is named, and the way out; no process was started."""
    turn(tidegate.folder, mode)
    stack = Stack(load_project(tidegate.folder))
    with pytest.raises(InvalidInput, match=r"server\.pem: cannot be .*`tidegate tls create` makes"):
        async with stack:
            pass

    assert not list(stack.project.state.logs.glob("*"))
    assert not stack.project.state.address.exists()


async def test_without_tls_clients_look_for_no_certificates(tidegate: Shell) -> None:
    """Those that are there, or are broken, are nobody's concern then."""
    create(tidegate.folder / ".tidegate" / "tls")
    (tidegate.folder / ".tidegate" / "tls" / "client.pem").write_text("broken")
    async with Stack(load_project(tidegate.folder), agents=()) as stack:
        assert stack.server.url.startswith("nats://127.0.0.1:")
        assert client_tls(stack.project.state) is None
        done = await asyncio.to_thread(tidegate, "publish", "greeting.requested", "{}")

    assert done.status == 0, done.err


async def test_a_stack_says_that_its_own_certificate_of_the_client_is_missing(
    tidegate: Shell,
) -> None:
    """A folder that serves the broker only does not serve a stack in mutual mode."""
    turn(tidegate.folder, "mutual")
    folder = tidegate.folder / ".tidegate" / "tls"
    create(folder)
    (folder / "client.pem").unlink()
    (folder / "client.key").unlink()
    with pytest.raises(NotConnected, match=rf"as {REGISTRAR}: .* wants one .* as client\.pem and"):
        async with Stack(load_project(tidegate.folder)):
            pass


async def test_clear_text_where_tls_is_required_is_counted(tidegate: Shell) -> None:
    """The broker logs nothing of it; the warden hears of it all the same."""
    folder = tidegate.folder
    turn(folder, "server")
    create(folder / ".tidegate" / "tls")

    def refused() -> float:
        return REGISTRY.get_sample_value("tidegate_broker_refused_logins_total") or 0.0

    async with Stack(load_project(folder), agents=()) as stack:
        before = refused()
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.server.port)
        with contextlib.suppress(ConnectionError):
            writer.write(b'CONNECT {"verbose":false}\r\nPUB in.outside.website 2\r\n{}\r\n')
            await reader.read()
        writer.close()
        await until(lambda: refused() > before)
