"""The broker's log: what it refused is seen, and told of nobody else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import nkeys
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from support import AGENT, INTRUDER, OTHER, Raw, until
from support.broker import configure
from tidegate_bus.broker import authority, tls
from tidegate_bus.broker.accounts import MAX_PAYLOAD, MAX_SUBSCRIPTIONS
from tidegate_bus.broker.server import Server
from tidegate_bus.identity.keyring import Keyring, new_seed
from tidegate_bus.watch import broker_log
from tidegate_bus.watch.broker_log import BrokerLog, Tail, Told
from tidegate_bus.watch.incidents import Incident, What, parse

VICTIM = "U" + "V" * 55
HEAD = "[7] 2026/11/22 11:59:47.229140 [ERR] 127.0.0.1:56352 - cid:7 - "


def line(rest: str) -> bytes:
    """A line of the broker."""
    return (HEAD + rest).encode()


# Reading a line


@pytest.mark.parametrize(
    ("rest", "key", "claims"),
    [
        (f'"n" - "AGENTS/nkey:{VICTIM}" - Publish Violation - Subject "x"', VICTIM, "n"),
        (f'"AGENTS/nkey:{VICTIM}" - Publish Violation - Subject "x"', VICTIM, ""),
        (f'"n" - "A{"B" * 55}/n/jwt:{VICTIM}" - Publish Violation - Subject "x"', VICTIM, "n"),
        (f'"A{"B" * 55}/n/nkey:{VICTIM}" - Publish Violation - Subject "x"', "", VICTIM),
        (f'"A{"B" * 55}/nkey:{VICTIM}" - Publish Violation - Subject "x"', "", VICTIM),
        (f'"A{"B" * 55}/n/user:x/jwt:{VICTIM}" - Publish Violation - Subject "x"', "", ""),
        (f'authentication error - Nkey "{VICTIM}"', "", VICTIM),
        (f'authentication error - User "AGENTS/nkey:{VICTIM}"', "", ""),
        ("authentication error", "", ""),
    ],
)
def test_a_key_counts_as_proven_only_where_the_broker_checked_it(
    rest: str, key: str, claims: str
) -> None:
    """In operator mode `nkey` stands for what a client wrote, and after a login that failed too."""
    incident = parse(line(rest))

    assert incident
    assert (incident.key, incident.claims) == (key, claims)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[7] 2026/11/22 11:59:47.229140 [INF] Server is ready",
        b'[7] 2026/11/22 11:59:47.2 [INF] 127.0.0.1:1 - cid:7 - "n" - Slow Consumer Recovered: x',
        b"[7] 2026/11/22 11:59:47.229140 [ERR] no client here",
        line("authentication error")[1:],
        b" " + line("authentication error"),
        line("authentication error").replace(b"cid:7", b"cid:x"),
    ],
)
def test_what_tells_of_no_client_is_no_incident(text: bytes) -> None:
    """Nor a line that was cut anywhere before its end."""
    assert parse(text) is None


def test_an_error_of_a_kind_that_is_not_known_is_seen() -> None:
    """Another version of the broker may have other words."""
    incident = parse(line("something new"))

    assert incident == Incident(What.OTHER, 7, "", "", "", "something new")


@given(st.binary())
@example(line('"\xff' + "\\" * 99))
@example(line('"n" - "n" - "n" - "n" - x'))
@example(line("x" * 100_000))
def test_no_bytes_make_the_reader_fail(text: bytes) -> None:
    """And what comes out of it is short and printable."""
    incident = parse(text) or parse(line("") + text)

    assert incident
    for part in (incident.text, incident.claims, incident.subject):
        assert part.isprintable()
        assert len(part) <= 400


# Following the file


def test_only_what_is_added_is_read(tmp_path: Path) -> None:
    """Neither what was there, nor the rest of a line that had begun, nor half a line."""
    path = tmp_path / "log"
    path.write_bytes(b"old\nhal")
    tail = Tail(path)
    with path.open("ab") as log:
        log.write(b"f\none\ntw")
        log.flush()
        assert tail.lines() == [b"one"]
        log.write(b"o\x85\x0b\xe2\x80\xa8\r\n\nthree")
        log.flush()
        assert tail.lines() == [b"two\x85\x0b\xe2\x80\xa8\r", b""]
        assert tail.lines() == []
    tail.close()


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    """The broker may start later."""
    path = tmp_path / "log"
    tail = Tail(path)

    assert tail.lines() == []
    path.write_bytes(b"one\n")
    assert tail.lines() == [b"one"]
    tail.close()


def test_a_log_that_is_cut_back_is_read_from_its_beginning(tmp_path: Path) -> None:
    """The broker appends, so it goes on at the new end."""
    path = tmp_path / "log"
    path.write_bytes(b"")
    tail = Tail(path)
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.lines() == [b"one", b"two"]
    path.write_bytes(b"new\n")

    assert tail.lines() == [b"new"]
    tail.close()


def test_a_log_that_is_moved_away_is_read_to_its_end_first(tmp_path: Path) -> None:
    """And then its successor, when there is one."""
    path = tmp_path / "log"
    path.write_bytes(b"")
    tail = Tail(path)
    path.write_bytes(b"one\n")
    path.rename(tmp_path / "log.1")
    assert tail.lines() == [b"one"]
    assert tail.lines() == []
    with (tmp_path / "log.1").open("ab") as old:
        old.write(b"two\n")
    path.write_bytes(b"three\n")

    assert [tail.lines() for _ in range(3)] == [[b"two"], [], [b"three"]]
    tail.close()


def test_a_flood_costs_no_more_than_so_much_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too far behind is skipped, and it is known how much that was."""
    monkeypatch.setattr(broker_log, "_BEHIND_BYTES", 10_000)
    path = tmp_path / "log"
    path.touch()
    tail = Tail(path)
    path.write_bytes(b"x" * 99 + b"\n")
    with path.open("ab") as log:
        log.write((b"y" * 99 + b"\n") * 90)
        log.flush()
        assert len(tail.lines(1000)) == 10
        log.write((b"z" * 99 + b"\n") * 90)
        log.flush()
        assert len(tail.lines(1000)) == 10
    assert tail.skipped == 8_100 + 9_000 - 1000
    assert tail.lines(1000) == []
    tail.close()


def test_a_line_without_end_is_dropped(tmp_path: Path) -> None:
    """The memory that a log can take is bounded; the line after it is read."""
    path = tmp_path / "log"
    path.touch()
    tail = Tail(path)
    with path.open("ab") as log:
        for _ in range(300):
            log.write(b"x" * 1000)
            log.flush()
            assert tail.lines() == []
        log.write(b"\nnext\n")
        log.flush()
        assert tail.lines() == [b"next"]
    tail.close()


# Counting and telling


def counted(what: What, principal: str) -> float:
    """The value of the metric now."""
    labels = {"kind": what.value, "principal": principal}
    return REGISTRY.get_sample_value("tidegate_broker_incidents_total", labels) or 0.0


def test_incidents_of_one_kind_are_told_once_in_a_while_with_their_number(tmp_path: Path) -> None:
    """All are counted; another's are told at once whatever the first one does."""
    path = tmp_path / "log"
    path.touch()
    told: list[Told] = []
    log = BrokerLog(path, {VICTIM: AGENT}, told.append)
    before = counted(What.PUBLISH, "team.agent"), counted(What.PUBLISH, "unknown")

    def write(key: str, subject: str, times: int = 1) -> None:
        with path.open("ab") as file:
            text = f'"n" - "AGENTS/nkey:{key}" - Publish Violation - Subject "{subject}"\n'
            file.write(line(text) * times)

    write(VICTIM, "first", 1)
    write(VICTIM, "more", 99)
    write("U" + "X" * 55, "stranger")
    log.tick(0)
    log.tick(9)
    assert [(t.principal, t.incident.subject, t.left_out) for t in told] == [
        (AGENT, "first", 0),
        (None, "stranger", 0),
    ]
    log.tick(10)
    log.tick(20)
    log.tick(30)
    write(VICTIM, "again")
    log.tick(31)
    assert [(t.principal, t.incident.subject, t.left_out) for t in told[2:]] == [
        (AGENT, "more", 98),
        (AGENT, "again", 0),
    ]
    assert counted(What.PUBLISH, "team.agent") == before[0] + 101
    assert counted(What.PUBLISH, "unknown") == before[1] + 1
    log.close()


def test_what_is_expected_is_counted_and_never_told(tmp_path: Path) -> None:
    """Also not later, in the number of those left out; the first that is not expected is told."""
    path = tmp_path / "log"
    path.touch()
    told: list[Told] = []
    expecting = True
    log = BrokerLog(path, {VICTIM: AGENT}, told.append, expected=lambda _: expecting)
    before = counted(What.PUBLISH, "team.agent")

    def write(subject: str) -> None:
        with path.open("ab") as file:
            text = f'"n" - "AGENTS/nkey:{VICTIM}" - Publish Violation - Subject "{subject}"\n'
            file.write(line(text))

    write("expected")
    write("expected")
    log.tick(0)
    expecting = False
    log.tick(10)
    assert told == []
    write("not expected")
    log.tick(11)
    assert [(t.incident.subject, t.left_out) for t in told] == [("not expected", 0)]
    assert counted(What.PUBLISH, "team.agent") == before + 3
    log.close()


def test_where_a_key_is_only_said_the_number_of_the_connection_tells_whose_it_is(
    tmp_path: Path,
) -> None:
    """An agent in operator mode cannot make its attempts another's."""
    path = tmp_path / "log"
    path.touch()
    told: list[Told] = []
    log = BrokerLog(path, {VICTIM: OTHER}, told.append, owner={7: AGENT}.get)
    path.write_bytes(line(f'"A{"B" * 55}/n/nkey:{VICTIM}" - Publish Violation - Subject "x"\n'))
    log.tick(0)
    log.close()

    assert told[0].principal == AGENT
    assert told[0].incident.claims == "team.other"


# With a broker

SMALL = {"max_pending": MAX_PAYLOAD, "max_connections": 9, "write_deadline": "200ms"}


class Rig:
    """A broker with narrow limits whose log is followed."""

    def __init__(self, server: Server, keyring: Keyring) -> None:
        self.server = server
        self.keyring = keyring
        self.told: list[Told] = []
        self._open: list[asyncio.StreamWriter] = []

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A connection that said nothing yet, and the broker's challenge."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._open.append(writer)
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        return reader, writer, info.get("nonce", "")

    async def say(self, *lines: bytes, **options: Any) -> None:
        """Log in as the agent, with these options in the CONNECT, and write lines."""
        reader, writer, nonce = await self.dial()
        pair = nkeys.from_seed(bytearray(self.keyring.seed(AGENT).encode()))
        proof = base64.b64encode(bytes(pair.sign(nonce.encode()))).decode()
        login = {"nkey": self.keyring.ensure(AGENT), "sig": proof, **options}
        text = b"CONNECT " + json.dumps(login).encode()
        with contextlib.suppress(OSError):
            writer.write(b"".join(part + b"\r\n" for part in (text, *lines, b"PING", b"PING")))
            await writer.drain()
            writer.write_eof()
            await reader.read()

    async def heard(self, what: What) -> Told:
        """What is told of this kind."""
        await until(lambda: any(told.incident.what is what for told in self.told))
        return next(told for told in self.told if told.incident.what is what)

    async def close(self) -> None:
        """Close what is open."""
        for writer in self._open:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    """A broker with narrow limits."""
    keyring = Keyring(tmp_path / "keys")
    path = configure(tmp_path, keyring)
    path.write_text(json.dumps(json.loads(path.read_text()) | SMALL))
    async with await Server.start(path, tmp_path / "server.log") as server:
        made = Rig(server, keyring)
        principals = {keyring.ensure(who): who for who in (AGENT, OTHER, INTRUDER)}
        following = asyncio.create_task(BrokerLog(server.log, principals, made.told.append).run())
        yield made
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await made.close()


@pytest.mark.parametrize(
    ("what", "lines", "subject"),
    [
        (What.PUBLISH, [b"PUB in.team.other 0", b""], "in.team.other"),
        (What.REPLY, [b"PUB in.team.agent $JS.ACK.X.x.1.1.1.1.0 0", b""], "$JS.ACK.X.x.1.1.1.1.0"),
        (What.SUBSCRIBE, [b"SUB > 1"], ">"),
        (What.SUBSCRIBE, [b"SUB > queue 1"], ">"),
        (What.PAYLOAD, [b"PUB in.team.agent %d" % (MAX_PAYLOAD + 1)], ""),
        (What.PROTOCOL, [b"GET / HTTP/1.1"], ""),
        (What.PROTOCOL, [b"PUB a b c d e f"], ""),
        (What.PROTOCOL, [b"PUB " + b"x" * 5000], ""),
        (
            What.SUBSCRIPTIONS,
            [b"SUB receipt.team.agent %d" % n for n in range(MAX_SUBSCRIPTIONS + 1)],
            "",
        ),
    ],
    ids=str,
)
async def test_what_an_identity_may_not_do_is_told_of_it(
    rig: Rig, what: What, lines: list[bytes], subject: str
) -> None:
    """With its principal, proven, and the subject, out of the real broker's words."""
    await rig.say(*lines, name="team.agent")
    told = await rig.heard(what)

    assert (told.principal, told.incident.subject) == (AGENT, subject)
    assert told.incident.claims == "team.agent"


@pytest.mark.parametrize(
    "options",
    [{"nkey": new_seed()}, {"sig": ""}, {"nkey": ""}, {"user": "root", "pass": "x", "nkey": ""}],
    ids=["unknown", "unsigned", "keyless", "password"],
)
async def test_a_login_that_is_refused_is_told_of_nobody(rig: Rig, options: dict[str, str]) -> None:
    """The key that it names may be another's; it is shown as what it is, a claim."""
    await rig.say(name=f"AGENTS/nkey:{rig.keyring.ensure(OTHER)}", **options)
    told = await rig.heard(What.LOGIN)

    assert told.principal is None
    assert told.incident.claims == ("team.agent" if options == {"sig": ""} else "")


async def test_more_connections_than_there_are_places_are_told_of(rig: Rig) -> None:
    """Of nobody: the broker does not ask who it is."""
    for _ in range(9):
        await rig.dial()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()

    assert (await rig.heard(What.CONNECTIONS)).principal is None


async def test_a_client_that_does_not_read_is_told_of(rig: Rig) -> None:
    """The broker lets it go."""
    slow = await Raw.open(rig.server.url, rig.keyring.seed(INTRUDER))
    fast = await Raw.open(rig.server.url, rig.keyring.seed(INTRUDER))
    await slow.say(b"SUB news 1")
    for _ in range(40):
        await fast.say(*[b"PUB news 1000000", b"x" * 1_000_000] * 4)
        if rig.told:
            break

    assert (await rig.heard(What.SLOW_CONSUMER)).principal == INTRUDER
    await fast.close()
    with contextlib.suppress(ConnectionError):
        await slow.close()


FORGED = (
    '\n[1] 2026/11/22 11:59:47.229140 [ERR] 1.2.3.4:5 - cid:1 - "n" - "AGENTS/nkey:{}" - '
    'Publish Violation - Subject "forged"\n'
)


async def test_nobody_makes_an_incident_of_another_with_what_it_may_choose(rig: Rig) -> None:
    """Whatever it writes where a client has the choice: names, versions, subjects, numbers."""
    victim = rig.keyring.ensure(OTHER)
    forged = FORGED.format(victim)
    end = f'x" - "AGENTS/nkey:{victim}" - '
    for text in (forged, end, f"AGENTS/nkey:{victim}", "\x1b[2J\x85\u2028\u202e\x00\\", "\\"):
        for field in ("name", "lang", "version", "user", "jwt", "account", "protocol\n", "sig"):
            await rig.say(b"PUB x 0", b"", **{field: text})
            await rig.say(b"PUB x 0", b"", **{field: text, "name": "x", "nkey": text})
        raw = text.encode().replace(b" ", b"\x0b").strip(b"\n")
        await rig.say(b"PUB " + raw + b" 0", b"")
        await rig.say(b"PUB in.team.agent $JS.ACK." + raw + b" 0", b"")
        await rig.say(b"SUB > " + raw + b" " + raw)
        await rig.say(b"SUB > " + raw + b"\xff\x9b[1m")
        await rig.say(raw)
        await rig.say(text.encode())
        await rig.say(b"PUB " + text.encode())
        await rig.say(b"HPUB " + text.encode())
        await rig.say(b"MSG " + text.encode())
    await rig.say(b"SUB receipt.last 1")
    incidents = [i for i in map(parse, rig.server.log.read_bytes().split(b"\n")) if i]

    assert len(incidents) > 80
    assert {i.key for i in incidents} == {rig.keyring.ensure(AGENT), ""}
    assert not any(i.subject == "forged" for i in incidents)
    assert all((i.claims + i.subject + i.text).isprintable() for i in incidents)


async def test_a_client_that_fails_at_tls_is_told_of(tmp_path: Path) -> None:
    """Of nobody. One that speaks in clear text is cut without a word in the log."""
    authority.create(tmp_path / "tls")
    path = tmp_path / "nats.conf"
    block = tls.server_block(tmp_path / "tls", mutual=False)
    path.write_text(json.dumps({"listen": "127.0.0.1:-1", "tls": block}))
    async with await Server.start(path, tmp_path / "server.log") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await reader.readline()
        writer.write(b"\x16\x03\x01\x00\x05hello")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    kinds = [i.what for i in map(parse, server.log.read_bytes().split(b"\n")) if i]

    assert kinds == [What.TLS]
