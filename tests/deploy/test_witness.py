"""A witness as a process of its own, over HTTP; and what the notary's client makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from policy.signing.test_witness import LEAVES, WRITER, body, head, node
from policy.signing.writer import HEADS, LOG, Writer, access, record
from support import Broker, until
from tidegate_bus.broker import lifeline
from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.telemetry import Health
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer, Verifier
from tidegate_evidence.tree import consistency
from tidegate_evidence.trust import Group, Trust
from tidegate_evidence.trust import Witness as TrustedWitness
from tidegate_policy.signing.cosigners import Cosigner, Cosigners, Disagreement
from tidegate_policy.signing.notary import Notary, NotarySettings
from tidegate_policy.signing.witness import Seen
from tidegate_schemas.errors import Unavailable, VerificationError

from .test_cli_alone import Program


class Witness:
    """A process of `tidegate witness`."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "tidegate", "witness", "--state", str(folder)]
        command += ["--log", str(WRITER.verifier), "--listen", f"127.0.0.1:{port}", *options]
        self.process: subprocess.Popen[str] = subprocess.Popen(
            lifeline.command(*command), stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.key = Verifier.parse(self.process.stdout.readline().removeprefix("key").strip())
        self.url: str = self.process.stdout.readline().removeprefix("url").strip()

    @property
    def port(self) -> int:
        """Where it listens."""
        port = urlsplit(self.url).port
        assert port
        return port

    def post(self, data: bytes, path: str = "/add-checkpoint") -> tuple[int, str, bytes]:
        """Status, content type and body of an answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            link.request("POST", path, data)
            answer = link.getresponse()
            return answer.status, answer.headers.get_content_type(), answer.read()
        finally:
            link.close()

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(20)
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[..., Witness]]:
    """Starts witnesses that end with the test."""
    begun: list[Witness] = []

    def start(*options: str, port: int = 0) -> Witness:
        begun.append(Witness(tmp_path / "witness", *options, port=port))
        return begun[-1]

    yield start
    for witness in begun:
        witness.end(signal.SIGKILL)


@pytest.fixture
def meet() -> Generator[Callable[[Witness], Cosigner]]:
    """Makes clients that hang up with the test."""
    with contextlib.ExitStack() as stack:

        def meet(witness: Witness) -> Cosigner:
            made = Cosigner(witness.key, witness.url)
            stack.callback(made.close)
            return made

        yield meet


def checkpoint(note: Note) -> Checkpoint:
    """What a note says."""
    return Checkpoint.parse(note.text)


def ask(cosigner: Cosigner, size: int, *, forged: bool = False) -> int | None:
    """Ask a witness as the notary does; when it signed."""
    note = head(size, forged=forged)
    signature = cosigner.ask(note, checkpoint(note), lambda old: consistency(old, size, node))
    return cosigner.key.check(note.signed(signature))


def test_it_cosigns_over_http_and_keeps_its_key(
    start: Callable[..., Witness], meet: Callable[[Witness], Cosigner]
) -> None:
    """The key that it prints is that which it signs with; a restart changes neither."""
    witness = start("--name", "w.example/1")
    cosigner = meet(witness)
    assert ask(cosigner, 3)
    assert ask(cosigner, 3)
    witness.end()
    again = start("--name", "w.example/1", port=witness.port)

    assert again.key == witness.key
    assert again.key.name == "w.example/1"
    assert ask(cosigner, 7)  # over the connection that was kept, which is gone
    assert ask(meet(again), 12)  # by somebody who does not know how far it is
    assert (witness.folder / "key").stat().st_mode & 0o777 == 0o600


def test_forks_and_rollbacks_are_refused(
    start: Callable[..., Witness], meet: Callable[[Witness], Cosigner]
) -> None:
    """As the specification says, and the client knows it for what it is."""
    witness = start()
    cosigner = meet(witness)
    ask(cosigner, 7)

    for size in (7, 12):
        with pytest.raises(Disagreement):
            ask(cosigner, size, forged=True)
    with pytest.raises(Disagreement, match="has seen 7 records; there are 3"):
        ask(meet(witness), 3)
    with pytest.raises(Disagreement):
        ask(meet(witness), 7, forged=True)

    assert witness.post(body(3, head(12))) == (409, "text/x.tlog.size", b"7\n")
    assert ask(cosigner, 12)


def test_what_is_no_request_is_never_an_error_of_the_server(
    start: Callable[..., Witness],
) -> None:
    """Too large, not HTTP, cut off, of another kind: it answers, and goes on."""
    witness = start()
    assert witness.post(b"")[0] == 400
    assert witness.post(bytes(1_000_000))[0] == 400
    assert witness.post(b"old 0\n\n", "/other")[0] == 404
    link = http.client.HTTPConnection("127.0.0.1", witness.port, timeout=20)
    link.request("GET", "/add-checkpoint")
    assert link.getresponse().status == 405
    link.close()
    chance = random.Random(5)
    good = body(0, head(5))
    for _ in range(200):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert witness.post(bytes(data))[0] in (200, 400, 403, 404, 409, 422)
    for raw in (b"\x00" * 100, b"POST /add-checkpoint HTTP/1.1\r\ncontent-length: 50\r\n\r\nold"):
        with socket.create_connection(("127.0.0.1", witness.port)) as wire:
            wire.sendall(raw)
    assert witness.post(body(0, head(0)))[0] in (200, 409)


def test_of_many_clients_at_once_one_is_right(
    start: Callable[..., Witness], meet: Callable[[Witness], Cosigner]
) -> None:
    """Each size follows from one before; nobody is answered twice from one place."""
    witness = start()
    ask(meet(witness), 5)

    def go(size: int) -> tuple[int, int]:
        return size, witness.post(body(5, head(size)))[0]

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(go, range(6, 30)))

    won = [size for size, status in done if status == 200]
    assert len(won) == 1
    assert {status for _, status in done} == {200, 409}
    with Seen(witness.folder / "witness.db") as seen:
        assert seen.newest("test/0")[0] == won[0]


def test_what_was_answered_outlives_a_kill(start: Callable[..., Witness]) -> None:
    """SIGKILL at any moment: no size that was cosigned is forgotten."""
    chance = random.Random(7)
    witness, highest = start(), 0
    for _ in range(2):
        killer = threading.Timer(chance.uniform(0.0, 0.1), os.kill, (witness.process.pid, 9))
        killer.start()
        try:
            for size in range(highest, len(LEAVES) + 1):
                if witness.post(body(highest, head(size)))[0] == 200:
                    highest = size
        except (OSError, http.client.HTTPException):
            pass
        killer.join()
        witness.end()
        with Seen(witness.folder / "witness.db") as seen:
            assert seen.newest("test/0")[0] >= highest
            highest = seen.newest("test/0")[0]
        witness = start()
    assert witness.post(body(highest, head(highest, forged=True), []))[0] == (
        409 if highest else 200
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--listen", "nowhere", "--log", str(WRITER.verifier)),
        ("--listen", "127.0.0.1:70000", "--log", str(WRITER.verifier)),
        ("--listen", "192.0.2.1:1", "--log", str(WRITER.verifier)),
        ("--log", "x"),
        ("--log", str(Signer.generate("w", Algorithm.COSIGNATURE).verifier)),
        ("--log", str(WRITER.verifier), "--name", "a name"),
    ],
)
def test_bad_input_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    """Exit status 2, in a line."""
    done = Program(monkeypatch, capsys)("witness", "--state", str(tmp_path / "w"), *options)

    assert done.status == 2
    assert done.err.startswith("error ")


@contextlib.contextmanager
def answering(status: int, data: bytes, kind: str = "text/plain") -> Generator[str]:
    """A server that always answers the same; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/w"
        finally:
            server.shutdown()
            thread.join()


SIZE = "text/x.tlog.size"


@pytest.mark.parametrize(
    ("status", "data", "kind"),
    [
        (200, b"", "text/plain"),
        (200, b"\xff\xff", "text/plain"),
        (200, "— w.example AAAAAAAAAAAA\n".encode(), "text/plain"),
        (200, bytes(100_000), "text/plain"),
        (200, head(3).encode(), "text/plain"),
        (302, b"", "text/plain"),
        (403, b"no", "text/plain"),
        (404, b"\x1b[2J", "text/plain"),
        (500, b"", "text/plain"),
        (409, b"1\n", SIZE),
    ],
)
def test_a_witness_that_talks_nonsense_is_as_good_as_none(
    status: int, data: bytes, kind: str
) -> None:
    """No answer crashes the notary or counts as a signature."""
    key = Signer.generate("w.example", Algorithm.COSIGNATURE).verifier
    with answering(status, data, kind) as url:
        cosigner = Cosigner(key, url)
        with pytest.raises((Unavailable, Disagreement)):
            ask(cosigner, 3)
        cosigner.close()


def test_who_does_not_answer_is_not_waited_for(start: Callable[..., Witness]) -> None:
    """One that hangs costs its time once; the others sign all the same, and it is said who did."""
    witness = start()
    gone = Signer.generate("gone.example", Algorithm.COSIGNATURE).verifier
    silent = Signer.generate("silent.example", Algorithm.COSIGNATURE).verifier
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{s.getsockname()[1]}" for s in (hanging, closed)]
        cosigners = Cosigners(
            [(witness.key, witness.url), (silent, urls[0]), (gone, urls[1])], lambda: now[0]
        )
        note = head(5)
        answers = cosigners.ask(note, checkpoint(note), lambda _: [])
        assert [s.name for s in answers.signatures] == [witness.key.name]
        assert answers.missing.keys() == {"silent.example", "gone.example"}
        assert not answers.disagree
        assert cosigners.ready() == [witness.key]
        now[0] = 2.0
        assert gone in cosigners.ready()
        cosigners.close()


class Beside:
    """A notary that asks a witness, and a writer."""

    def __init__(self, broker: Broker, writer: Writer, witness: Witness) -> None:
        self._access, self._writer = access(broker, NOTARY), writer
        self.folder, self._witness = broker.folder / "notary", witness
        self.trust = Trust(
            tuple(writer.keys),
            (
                TrustedWitness("n", NOTARY_KEY.verifier),
                TrustedWitness("w", witness.key),
            ),
            (Group("both", 2, ("n", "w")),),
            "both",
        )
        self.notary: Notary | None = None
        self.restart()

    def restart(self) -> None:
        """Another one."""
        self.close()
        witnesses = [(self._witness.key, self._witness.url)]
        settings = NotarySettings(LOG, lambda: self._writer.keys, lambda: [NOTARY_KEY], witnesses)
        self.health = Health()
        self.notary = Notary(self._access, self.folder, settings, self.health)

    def close(self) -> None:
        """Disconnect."""
        if self.notary:
            self.notary.close()

    async def look(self) -> str:
        """Look once; what the health report says."""
        assert self.notary
        _, self.published = await asyncio.to_thread(self.notary.look)
        return str(self.health.report()[1]["status"])

    @property
    def signed(self) -> tuple[int, bool]:
        """Size of the newest checkpoint, and whether the witness signed it too."""
        note = Note.parse((self.folder / "checkpoint").read_bytes())
        size = Checkpoint.parse(note.text).size
        assert NOTARY_KEY.verifier.check(note) is not None
        try:
            assert self.trust.check(note).size == size
        except VerificationError:
            return size, False
        return size, True


NOTARY_KEY = Signer.generate("test/notary", Algorithm.COSIGNATURE)


async def test_a_notary_publishes_who_signed(broker: Broker, start: Callable[..., Witness]) -> None:
    """Without the witness it goes on alone and says so; when that is back it is asked again."""
    writer = await Writer.of(broker, WRITER)
    witness = start()
    office = Beside(broker, writer, witness)
    try:
        for count in (3, 4):
            await writer.append(count)
            await writer.sign()
            assert await office.look() == "ok"
        assert office.signed == (7, True)
        witness.end(signal.SIGKILL)
        writer.signers = (Signer.generate(LOG), *writer.signers)
        await writer.sign()
        assert await office.look() == "ok"
        assert office.published
        assert office.signed == (7, True)  # what it has signed it has signed
        await writer.append(1)
        await writer.sign()
        assert await office.look() == "ok"
        assert office.signed == (8, False)
        assert office.health.report()[1]["witnesses_missing"] == [witness.key.name]

        start(port=witness.port)

        async def again() -> bool:
            await office.look()
            return office.signed == (8, True)

        await until(again)
    finally:
        office.close()


async def test_a_witness_remembers_what_everybody_else_was_made_to_forget(
    broker: Broker, start: Callable[..., Witness]
) -> None:
    """Ledger, heads and the notary's folder are replaced, by who has the writer's key: an alarm."""
    writer = await Writer.of(broker, WRITER)
    office = Beside(broker, writer, start())
    try:
        await writer.append(9)
        await writer.sign()
        assert await office.look() == "ok"
        for size, why in ((9, "another history|other 9 records"), (12, "another history")):
            shutil.rmtree(office.folder)
            await writer.replace([], HEADS)
            forged = [record(s, "forged") for s in range(1, size + 1)]
            await writer.replace(forged)
            await writer.sign(forged)
            office.restart()
            assert re.search(f"alarm: .*({why})", await office.look())
            assert office.signed == (size, False)
        shutil.rmtree(office.folder)
        await writer.replace([], HEADS)
        await writer.replace(writer.sent[:4])
        await writer.sign(writer.sent[:4])
        office.restart()
        assert "has seen 9 records; there are 4" in await office.look()
        (alarm,) = (office.folder / "alarms").glob("*-witness/finding.json")
        assert '"witness"' in alarm.read_text()

        await writer.replace(writer.sent)
        await writer.sign()
        office.restart()
        assert await office.look() == "ok"
        assert office.signed == (9, True)
    finally:
        office.close()
