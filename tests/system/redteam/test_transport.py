"""TLS: nobody gets in in clear text, by an old version or without the right certificate.

Nor by a certificate alone: it is no key. Of clear text the broker's log does not speak; its events,
which the warden hears, do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from nats.aio.msg import Msg

from bus.test_tls import LONG_AGO, SecureBroker, now, secured
from support import AGENT, OTHER, PUBLISHER, until
from support.broker import configure
from tidegate_bus.broker.accounts import WARDEN
from tidegate_bus.broker.authority import create
from tidegate_bus.broker.tls import server_block
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope

from .attack import OWN, event
from .wire import frame

_SECONDS = 5.0
_PACE_SECONDS = 0.005
_HANDSHAKE = "TLS handshake error"
_CUT = '"reason":"TLS Handshake Failure"'


@dataclass(frozen=True, slots=True)
class Target:
    """What an attacker has: the address, a key, and folders of certificates."""

    broker: SecureBroker
    folder: Path

    @property
    def secret(self) -> Credentials:
        """Of an agent."""
        return Credentials(self.broker.keyring.seed(AGENT))

    def context(self, certificate: str = "", folder: str = "tls") -> ssl.SSLContext:
        """What it speaks TLS with; it does not care who the broker is."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        if certificate:
            there = self.folder / folder
            made.load_cert_chain(there / f"{certificate}.pem", there / f"{certificate}.key")
        return made

    async def speak(
        self,
        tls: ssl.SSLContext | None,
        *,
        early: bytes = b"",
        nkey: str = "",
        **fields: Any,
    ) -> bytes:
        """Log in, submit and listen to all; what the broker answers until it closes."""
        address = urlsplit(self.broker.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        heard, plain = b"", writer.transport
        try:
            async with asyncio.timeout(_SECONDS):
                info = json.loads((await reader.readline()).removeprefix(b"INFO "))
                connect = {
                    "nkey": nkey or self.secret.public_key,
                    "sig": self.secret.sign(info["nonce"]).decode(),
                    "verbose": False,
                    **fields,
                }
                lines = (
                    b"CONNECT " + json.dumps(connect).encode(),
                    frame(OWN, event("must not get in")),
                    frame("ledger.0.allow.task.work.do"),
                    b"SUB > 1",
                    b"PING\r\n",
                )
                writer.write(early)
                if tls:
                    await writer.start_tls(tls, ssl_handshake_timeout=_SECONDS)
                writer.write(b"\r\n".join(lines))
                while line := await reader.readline():
                    heard += line
                    if line == b"PONG\r\n":
                        break
        except (OSError, asyncio.IncompleteReadError):  # an SSLError is one
            pass
        finally:
            writer.transport.abort()
            plain.abort()  # after a handshake that failed, nobody else does
        return heard


Try = Callable[[Target], Awaitable[bytes]]


def _early(target: Target) -> bytes:
    """A whole login in front of the handshake, as if it belonged to what comes after it."""
    connect = json.dumps({"nkey": target.secret.public_key, "sig": "", "tls_required": True})
    return b"CONNECT " + connect.encode() + b"\r\n" + frame(OWN, event("early")) + b"\r\n"


def _old(target: Target, certificate: str = "") -> ssl.SSLContext:
    made = target.context(certificate)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


def _expired(target: Target) -> ssl.SSLContext:
    """Of the right authority, for the right purpose, and over."""
    aged = target.folder / "aged"
    if not aged.exists():
        shutil.copytree(target.folder / "tls", aged)
        create(aged, renew=True, now=now() - LONG_AGO)
    return target.context("client", "aged")


def _strange(target: Target) -> ssl.SSLContext:
    """Of another authority, which has the same name."""
    if not (target.folder / "strange").exists():
        create(target.folder / "strange")
    return target.context("client", "strange")


ANYWHERE: dict[str, tuple[Try, str]] = {
    "clear text": (lambda t: t.speak(None), _CUT),
    "clear text that wants no TLS": (lambda t: t.speak(None, tls_required=False), _CUT),
    "clear text that says it is TLS": (lambda t: t.speak(None, tls_required=True), _CUT),
    "clear text in front of TLS": (
        lambda t: t.speak(t.context("client"), early=_early(t)),
        _CUT,
    ),
    "a greeting that is none": (
        lambda t: t.speak(None, early=bytes.fromhex("1603010005010000ff") + bytes(99)),
        _CUT,
    ),
    "an old version": (lambda t: t.speak(_old(t)), _HANDSHAKE),
    "an old version with a certificate": (lambda t: t.speak(_old(t, "client")), _HANDSHAKE),
    "a certificate and no key": (
        lambda t: t.speak(t.context("client"), nkey="", sig=""),
        "authentication error",
    ),
    "a certificate and the key of another": (
        lambda t: t.speak(t.context("client"), nkey=t.broker.keyring.ensure(OTHER)),
        "authentication error",
    ),
}
MUTUAL: dict[str, tuple[Try, str]] = {
    "no certificate": (lambda t: t.speak(t.context()), _HANDSHAKE),
    "a certificate of another authority": (lambda t: t.speak(_strange(t)), _HANDSHAKE),
    "the certificate of a server": (lambda t: t.speak(t.context("server")), _HANDSHAKE),
    "an expired certificate": (lambda t: t.speak(_expired(t)), _HANDSHAKE),
}
ATTACKS = {**ANYWHERE, **MUTUAL}


@contextlib.asynccontextmanager
async def others_at_work(broker: SecureBroker) -> AsyncGenerator[list[str]]:
    """Somebody submits meanwhile, with the right certificate, and some more afterwards."""
    connection = await broker.attempt(broker.certificates, principal=PUBLISHER)
    source, sent, stop = await Publisher.start(connection), list[str](), asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            await source.publish(Envelope.new("noise", id=f"{len(sent)}"), wait="accepted")
            sent.append(f"{len(sent)}")
            await asyncio.sleep(_PACE_SECONDS)  # so that nobody waits for a full ingress

    working = asyncio.create_task(work())
    try:
        yield sent
        goal = len(sent) + 2
        await until(lambda: len(sent) >= goal or working.done())
    finally:
        stop.set()
        await working
        await connection.close()


async def tried(
    folder: Path, attempt: Try, block: dict[str, Any], mark: str = ""
) -> tuple[list[str], bytes]:
    """Who has submitted in the end, and what the attacker heard.

    Returns once the mark is there, in the broker's log or in an event.
    """
    events: list[str] = []

    async def note(message: Msg) -> None:
        events.append(message.data.decode())

    async with secured(folder, block, streams=True) as broker:
        warden = await broker.attempt(broker.certificates, principal=WARDEN)
        await warden.listen("$SYS.ACCOUNT.*.DISCONNECT", note)
        async with others_at_work(broker) as sent:
            heard = await attempt(Target(broker, folder))

            def seen() -> bool:
                return mark in broker.server.log.read_text() + " ".join(events)

            await until(seen)
        await warden.close()
        subjects = [subject for subject, _ in await broker.stored("INGRESS_0")]
        assert subjects.count("in.outside.source") == len(sent)
        assert await broker.stored("LEDGER_0") == []
        return subjects, heard


@pytest.mark.parametrize(
    ("name", "mutual"),
    [("clear text", False), ("an old version", False), *((name, True) for name in ATTACKS)],
    ids=lambda value: {True: "mutual", False: "server"}.get(value, str(value)),
)
async def test_nothing_gets_in_without_tls_as_it_must_be(
    tmp_path: Path, name: str, mutual: bool
) -> None:
    """Others go on, nothing of the attacker is stored or heard, and log or events tell."""
    attempt, mark = ATTACKS[name]
    create(tmp_path / "tls")
    block = server_block(tmp_path / "tls", mutual=mutual)
    subjects, heard = await tried(tmp_path, attempt, block, mark)

    assert set(subjects) == {"in.outside.source"}
    assert b"MSG" not in heard
    assert b"PONG" not in heard


LESS: list[tuple[str, dict[str, Any]]] = [
    ("an old version with a certificate", {"min_version": "1.2"}),
    *((name, {"verify": False}) for name in MUTUAL),
]


@pytest.mark.parametrize(("name", "less"), LESS, ids=str)
async def test_with_another_block_the_same_attempt_gets_in(
    tmp_path: Path, name: str, less: dict[str, Any]
) -> None:
    """So it is the block that keeps it out."""
    create(tmp_path / "tls")
    block = server_block(tmp_path / "tls", mutual=True)
    subjects, _ = await tried(tmp_path, ATTACKS[name][0], {**block, **less})

    assert "in.team.agent" in subjects


@pytest.mark.parametrize("name", ["clear text", "clear text that wants no TLS"])
async def test_where_clear_text_is_let_in_it_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is the broker that keeps it out: our own library does not speak to such a one at all."""

    def lenient(*arguments: Any, **more: Any) -> Path:
        file = configure(*arguments, **more)
        file.write_text(json.dumps({**json.loads(file.read_text()), "allow_non_tls": True}))
        return file

    monkeypatch.setattr("bus.test_tls.configure", lenient)
    create(tmp_path / "tls")
    async with secured(tmp_path, server_block(tmp_path / "tls", mutual=True)) as broker:
        heard = await ATTACKS[name][0](Target(broker, tmp_path))

    assert b"PONG" in heard
