"""TLS of the edge: with real certificates, and a real handshake."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.edge.tls import server_context, subject_shown
from tidegate.project import load_project
from tidegate_schemas.errors import InvalidInput

from .kit import SETTINGS, Authority

SUBJECT = "CN=shop \\, two,OU=Web+L=Gen\u00e8ve,O=Example"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority, and a certificate of the edge."""
    made = Authority(tmp_path)
    made.make("CN=edge", "edge")
    return made


def context(folder: Path, clients: str = "clients: authority.pem") -> ssl.SSLContext | None:
    """What the edge of a project there shows."""
    tls = f"edge: {{tls: {{certificate: edge.pem, key: edge.key, {clients}}}}}"
    (folder / "tidegate.yaml").write_text(f"{SETTINGS}{tls if clients != '-' else ''}\n")
    return server_context(load_project(folder))


async def handshake(
    server: ssl.SSLContext | None, folder: Path, shown: tuple[Path, Path] | None
) -> str | None:
    """The subject that the server sees of a client that shows this.

    Raises:
        OSError: there is no handshake.
    """
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(subject_shown(writer.transport))
        writer.write(b"hello")
        writer.close()

    client = None
    if server:
        client = ssl.create_default_context(cafile=folder / "authority.pem")
        if shown:
            client.load_cert_chain(*shown)
    listening = await asyncio.start_server(on_client, "127.0.0.1", ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            if await reader.read() != b"hello":
                raise ConnectionError("cut")
        finally:
            writer.close()
        return seen.get_nowait()


async def test_the_subject_is_that_of_the_certificate(tmp_path: Path, authority: Authority) -> None:
    """As RFC 4514 writes it, whatever stands in it."""
    shown = authority.make(SUBJECT, "client")
    assert await handshake(context(tmp_path), tmp_path, shown) == SUBJECT


async def test_a_client_need_not_show_a_certificate(tmp_path: Path, authority: Authority) -> None:
    """It may have a token; where none is asked for, one that is shown is nobody's."""
    assert await handshake(context(tmp_path), tmp_path, None) is None
    shown = authority.make(SUBJECT, "client")
    assert await handshake(context(tmp_path, ""), tmp_path, shown) is None
    assert await handshake(context(tmp_path, "-"), tmp_path, None) is None


async def test_one_that_cannot_be_believed_ends_the_handshake(
    tmp_path: Path, authority: Authority
) -> None:
    """Of another authority, also one of the same name, and one that has expired."""
    other = tmp_path / "other"
    other.mkdir()
    for shown in (
        Authority(other).make(SUBJECT, "client"),
        authority.make(SUBJECT, "old", days=-1),
    ):
        with pytest.raises(OSError, match=r"(?i)alert|reset|cut|closed"):
            await handshake(context(tmp_path), tmp_path, shown)


FAULTS: dict[str, tuple[Callable[[Path, Authority], object], str]] = {
    "no certificate": (lambda f, a: (f / "edge.pem").unlink(), "edge.pem: cannot be read"),
    "no key": (lambda f, a: (f / "edge.key").unlink(), "edge.key: cannot be read"),
    "open key": (lambda f, a: (f / "edge.key").chmod(0o644), "run chmod 600"),
    "other key": (
        lambda f, a: a.make("CN=x", "x")[1].replace(f / "edge.key"),
        "edge.key is not the key of",
    ),
    "expired": (lambda f, a: a.make("CN=edge", "edge", days=-1), "edge.pem: has expired, 20"),
    "no authority": (lambda f, a: a.path.unlink(), "authority.pem: cannot be read"),
    "no PEM": (lambda f, a: a.path.write_text("x"), "authority.pem: holds no certificates"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_serve_is_found_before_anybody_calls(
    tmp_path: Path, authority: Authority, fault: str
) -> None:
    """The file is named, and the way out."""
    break_it, said = FAULTS[fault]
    break_it(tmp_path, authority)
    with pytest.raises(InvalidInput, match=said):
        context(tmp_path)
