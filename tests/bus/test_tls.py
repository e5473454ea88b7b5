"""TLS between clients and a real broker: what is refused by whom, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import shutil
import socket
import ssl
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support import ADMIN, LIMITS, OPERATOR, PUBLISHER, Broker, until
from support.broker import IN_CONTAINER, configure
from tidegate_bus import bulk
from tidegate_bus.broker import authority
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.authority import create
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.tls import client_context, server_block
from tidegate_bus.broker.topology import converge
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidInput, NotConnected
from tidegate_schemas.subjects import Principal

INGRESS = subjects.ingress_stream(0)
LONG_AGO = datetime.timedelta(days=91)


class SecureBroker(Broker):
    """A broker that wants TLS."""

    def __init__(self, server: Server, keyring: Keyring, folder: Path, tls: dict[str, Any]) -> None:
        super().__init__(server, keyring, folder)
        self.certificates = folder / "tls"
        self._tls = tls

    async def restart(self) -> None:
        """Start it again, on the same port and store, after `kill`."""
        self._server = await started(self.folder, self.keyring, self._tls, self.server.port)

    async def connect(self, principal: Principal) -> Connection:
        """A connection that ends with the broker."""
        return await self._stack.enter_async_context(await self.attempt(self.certificates))

    async def attempt(
        self, tls: ssl.SSLContext | Path | None, url: str = "", principal: Principal = ADMIN
    ) -> Connection:
        """A connection with some certificates, to some address."""
        seed = self.keyring.seed(principal)
        return await connect(url or self.url, principal, seed, tls=tls, timeout=1.0)


async def started(folder: Path, keyring: Keyring, tls: dict[str, Any], port: int = -1) -> Server:
    """A server with the configuration of the tests, and TLS."""
    file = configure(folder, keyring, port)
    file.write_text(json.dumps({**json.loads(file.read_text()), "tls": tls}))
    return await Server.start(file, folder / "server.log")


@contextlib.asynccontextmanager
async def secured(
    folder: Path, tls: dict[str, Any], *, streams: bool = False
) -> AsyncGenerator[SecureBroker]:
    """A broker with this block `tls`, and with `streams` the topology."""
    if IN_CONTAINER:
        pytest.skip("the certificates are not in the container")
    keyring = Keyring(folder / "keys")
    broker = SecureBroker(await started(folder, keyring, tls), keyring, folder, tls)
    try:
        if streams:
            async with await broker.attempt(broker.certificates, principal=REGISTRAR) as registrar:
                await converge(registrar, LIMITS, [])
        yield broker
    finally:
        await broker.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder of certificates."""
    create(tmp_path / "tls")
    return tmp_path / "tls"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder of certificates of another authority."""
    create(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def bare(certificates: Path, tmp_path: Path) -> Path:
    """A folder with the authority only."""
    (tmp_path / "bare").mkdir()
    shutil.copy(certificates / "authority.pem", tmp_path / "bare")
    return tmp_path / "bare"


@pytest.fixture(params=[False, True], ids=["server", "mutual"])
async def either(
    request: pytest.FixtureRequest, certificates: Path, tmp_path: Path
) -> AsyncGenerator[SecureBroker]:
    """A broker that wants TLS, with and without certificates of clients."""
    async with secured(tmp_path, server_block(certificates, mutual=request.param)) as broker:
        yield broker


@pytest.fixture
async def mutual(certificates: Path, tmp_path: Path) -> AsyncGenerator[SecureBroker]:
    """A broker with streams that wants certificates of clients."""
    block = server_block(certificates, mutual=True)
    async with secured(tmp_path, block, streams=True) as broker:
        yield broker


def now() -> datetime.datetime:
    """The time."""
    return datetime.datetime.now(datetime.UTC)


# Connecting


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_whoever_trusts_the_authority_is_connected(either: SecureBroker, host: str) -> None:
    """By name and by IP address; the server's address says that it speaks TLS."""
    assert either.url == f"tls://127.0.0.1:{either.server.port}"
    url = f"tls://{host}:{either.server.port}"
    async with await either.attempt(either.certificates, url) as connection:
        assert connection.nats.is_connected


async def test_a_certificate_of_the_client_is_needed_in_mutual_mode_only(
    either: SecureBroker, bare: Path, other: Path
) -> None:
    """None, and one of another authority, are refused by the broker; the error says what to do."""
    strange = client_context(bare)
    strange.load_cert_chain(other / "client.pem", other / "client.key")
    mutual = json.loads((either.folder / "nats.conf").read_text())["tls"]["verify"]
    for tls in (bare, strange):
        if not mutual:
            async with await either.attempt(tls) as connection:
                assert connection.nats.is_connected
            continue
        with pytest.raises(NotConnected, match=r"does not accept our certificate .*client\.pem"):
            await either.attempt(tls)


async def test_a_broker_of_another_authority_is_not_trusted(
    either: SecureBroker, other: Path
) -> None:
    """Neither by a client with another authority, nor by one with those of the machine."""
    for tls in (other, None):
        with pytest.raises(NotConnected, match=r"not of the authority that we trust.*authority\."):
            await either.attempt(tls)


async def test_a_broker_whose_certificate_is_for_other_names_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By IP address as by name; the error says what is wrong and how to make another."""
    monkeypatch.setattr(authority, "LOCAL", ("bus.example.com",))
    create(tmp_path / "tls")
    async with secured(tmp_path, server_block(tmp_path / "tls", mutual=False)) as broker:
        for host in ("127.0.0.1", "localhost"):
            url = f"tls://{host}:{broker.server.port}"
            with pytest.raises(NotConnected, match=f"for other names: .*'{host}'.*--renew --host"):
                await broker.attempt(broker.certificates, url)


async def test_a_broker_whose_certificate_has_expired_is_not_trusted(
    certificates: Path, bare: Path, tmp_path: Path
) -> None:
    """It is not even configured with one; the error of the client says how to renew it."""
    block = server_block(certificates, mutual=False)
    create(certificates, renew=True, now=now() - LONG_AGO)
    with pytest.raises(InvalidInput, match=r"server\.pem: has expired; `tidegate tls create --re"):
        server_block(certificates, mutual=False)
    async with secured(tmp_path, block) as broker:
        with pytest.raises(NotConnected, match=r"has expired; renew it .*restart the broker"):
            await broker.attempt(bare)


async def test_a_certificate_proves_nobody(mutual: SecureBroker, bare: Path) -> None:
    """Whoever has one but no key of a principal, or one that is not known, gets nowhere."""
    stranger = Keyring(mutual.folder / "strange")
    stranger.ensure(PUBLISHER)
    with pytest.raises(NotConnected, match="Authorization Violation"):
        await connect(
            *(mutual.url, PUBLISHER, stranger.seed(PUBLISHER)), tls=mutual.certificates, timeout=1.0
        )
    reader, writer = await asyncio.open_connection("127.0.0.1", mutual.server.port)
    await reader.readline()
    await writer.start_tls(client_context(mutual.certificates), server_hostname="127.0.0.1")
    publish = f"PUB {subjects.submission(PUBLISHER)} 2\r\nhi\r\n".encode()
    writer.write(b'CONNECT {"verbose":false}\r\n' + publish)

    assert await reader.read() == b"-ERR 'Authorization Violation'\r\n"
    writer.close()
    assert await mutual.length(INGRESS) == 0


# Clear text


async def test_clear_text_is_cut_and_nothing_of_it_is_stored(mutual: SecureBroker) -> None:
    """The broker says that it wants TLS; a CONNECT with a good signature is not even read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mutual.server.port)
    info = json.loads((await reader.readline()).removeprefix(b"INFO "))
    key = Credentials.of(mutual.keyring.seed(PUBLISHER))
    options = {"nkey": key.public_key, "sig": key.sign(info["nonce"]).decode(), "verbose": False}
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
    writer.write(f"PUB {subjects.submission(PUBLISHER)} 2\r\nhi\r\nPING\r\n".encode())
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
        assert b"PONG" not in answer
    writer.close()

    assert (info["tls_required"], info["tls_verify"]) == (True, True)
    assert await mutual.length(INGRESS) == 0


async def test_a_client_without_tls_is_told_what_the_broker_wants(either: SecureBroker) -> None:
    """An address with nats:// does not silently become another."""
    url = f"nats://127.0.0.1:{either.server.port}"
    with pytest.raises(NotConnected, match=r"the broker wants TLS; connect to tls:// with `tls`"):
        await either.attempt(None, url)


async def test_giving_up_ends_also_in_the_midst_of_a_handshake(
    either: SecureBroker, other: Path
) -> None:
    """Whenever the time is over, nothing is tried again after it."""
    seed = either.keyring.seed(ADMIN)
    async with asyncio.timeout(20.0):
        ends = await asyncio.gather(
            *(
                connect(either.url, ADMIN, seed, tls=other, timeout=0.1 + number / 200)
                for number in range(60)
            ),
            return_exceptions=True,
        )

    assert {type(end) for end in ends} == {NotConnected}


@contextlib.asynccontextmanager
async def impostor(**says: Any) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Somebody who answers in place of the broker; its port, and what each client sent it."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "nonce": "n", "max_payload": 1024, **says}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        heard.append(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_whoever_wants_tls_never_speaks_clear_text(
    certificates: Path, tmp_path: Path, scheme: str
) -> None:
    """What comes before TLS may be forged: nothing is sent to a broker that does not ask for it."""
    keyring = Keyring(tmp_path / "keys")
    keyring.ensure(PUBLISHER)
    seed = keyring.seed(PUBLISHER)
    async with impostor() as (port, heard):
        url = f"{scheme}://127.0.0.1:{port}"
        for tls in (certificates, None) if scheme == "tls" else (certificates,):
            with pytest.raises(NotConnected, match="clear text, and TLS is wanted; nothing was se"):
                await connect(url, PUBLISHER, seed, tls=tls, timeout=0.5)

    assert heard
    assert set(heard) == {b""}


async def test_addresses_that_came_in_clear_text_are_not_followed(
    certificates: Path, tmp_path: Path
) -> None:
    """Whoever forges them would choose the broker."""
    keyring = Keyring(tmp_path / "keys")
    keyring.ensure(PUBLISHER)
    async with impostor(tls_required=True) as (elsewhere, followed):
        urls = [f"127.0.0.1:{elsewhere}"]
        async with impostor(tls_required=True, connect_urls=urls) as (port, heard):
            url, seed = f"tls://127.0.0.1:{port}", keyring.seed(PUBLISHER)
            with pytest.raises(NotConnected):
                await connect(url, PUBLISHER, seed, tls=certificates, timeout=1.0)

    assert len(heard) > 1
    assert followed == []


# Later


async def test_a_connection_comes_back_after_a_restart(
    mutual: SecureBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Under TLS too, by itself, and asyncio finds nothing to complain of."""
    connection = await mutual.connect(ADMIN)
    back: list[bool] = []
    connection.on_reconnect(lambda: back.append(True))
    await mutual.kill()
    await mutual.restart()
    await until(lambda: bool(back))

    assert (await connection.stream_state(INGRESS)).messages == 0
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("all_of_it", [False, True], ids=["certificates", "authority"])
async def test_what_is_renewed_on_disk_takes_effect_with_a_restart(
    mutual: SecureBroker, all_of_it: bool
) -> None:
    """Of the broker only: clients read theirs again, even those of a new authority."""
    connection = await mutual.connect(ADMIN)
    before = {path.name: path.read_text() for path in mutual.certificates.iterdir()}
    if all_of_it:
        shutil.rmtree(mutual.certificates)
    create(mutual.certificates, renew=True)
    back: list[bool] = []
    connection.on_reconnect(lambda: back.append(True))
    await mutual.kill()
    await mutual.restart()
    await until(lambda: bool(back))
    shown = await asyncio.to_thread(shown_by, mutual)

    assert (await connection.stream_state(INGRESS)).messages == 0
    assert shown == (mutual.certificates / "server.pem").read_text().strip()
    assert shown != before["server.pem"].strip()


async def test_a_connection_that_is_lost_as_a_handshake_ends_is_tried_again(
    mutual: SecureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python gives no stream then, and says nothing; nats-py would reconnect no more."""
    connection, loop = await mutual.connect(ADMIN), asyncio.get_running_loop()
    shake_hands, lost = loop.start_tls, 0

    async def start_tls(transport: asyncio.Transport, *others: Any, **options: Any) -> Any:
        nonlocal lost
        made = await shake_hands(transport, *others, **options)
        if lost == 2:
            return made
        lost += 1
        transport.abort()
        return None

    monkeypatch.setattr(loop, "start_tls", start_tls)
    await connection.nats.force_reconnect()
    await until(lambda: connection.nats.is_connected)

    assert lost == 2
    assert (await connection.stream_state(INGRESS)).messages == 0


def shown_by(broker: SecureBroker) -> str:
    """The certificate that a broker shows, in PEM."""
    with socket.create_connection(("127.0.0.1", broker.server.port)) as link:
        while link.recv(1) != b"\n":
            pass
        with client_context(broker.certificates).wrap_socket(
            link, server_hostname="127.0.0.1"
        ) as secure:
            return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"").strip()


async def test_certificates_that_cannot_be_read_again_are_replaced_by_the_last_ones(
    mutual: SecureBroker,
) -> None:
    """The log says why; the broker knows whether they are still good."""
    connection = await mutual.connect(ADMIN)
    key = mutual.certificates / "client.key"
    key.chmod(key.stat().st_mode | stat.S_IROTH)
    back: list[bool] = []
    connection.on_reconnect(lambda: back.append(True))
    with capture_logs() as logs:
        await mutual.kill()
        await mutual.restart()
        await until(lambda: bool(back))

    assert any(f"chmod 600 {key}" in str(log.get("error")) for log in logs)


async def test_a_broker_that_is_not_trusted_any_more_is_logged_until_it_is(
    mutual: SecureBroker, tmp_path: Path
) -> None:
    """Trouble with certificates is said while a connection tries to come back, which it does."""
    mine = tmp_path / "mine"
    shutil.copytree(mutual.certificates, mine)
    connection = await mutual.attempt(mine)
    back: list[bool] = []
    connection.on_reconnect(lambda: back.append(True))
    shutil.rmtree(mutual.certificates)
    create(mutual.certificates)
    with capture_logs() as logs:
        await mutual.kill()
        await mutual.restart()
        await until(lambda: any("not of the authority" in str(log.get("error")) for log in logs))
        shutil.copy(mutual.certificates / "authority.pem", mine)
        for name in ("client.key", "client.pem"):
            (mine / name).unlink()
        await until(lambda: any("not accept our cert" in str(log.get("error")) for log in logs))
        for name in ("client.key", "client.pem"):
            shutil.copy(mutual.certificates / name, mine)
        await until(lambda: bool(back))
    await connection.close()

    assert {log["log_level"] for log in logs if log["event"] == "cannot reconnect"} == {"error"}


# Files


def remove(path: Path) -> None:
    """Take a file away."""
    path.unlink()


def show_to_others(path: Path) -> None:
    """Let everybody read a file."""
    path.chmod(path.stat().st_mode | stat.S_IROTH)


def scribble(path: Path) -> None:
    """Make nonsense of a file."""
    path.write_text("nonsense")


def exchange(path: Path) -> None:
    """Put that of another authority in its place."""
    if not (path.parent.parent / "exchange").exists():
        create(path.parent.parent / "exchange")
    shutil.copy(path.parent.parent / "exchange" / path.name, path)


def misuse(path: Path) -> None:
    """Put that of the other side in its place, with its key."""
    other = "client" if path.stem == "server" else "server"
    for suffix in (".pem", ".key"):
        shutil.copy(path.parent / f"{other}{suffix}", path.with_suffix(suffix))


def lock(path: Path) -> None:
    """Protect a key by a password."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def age(path: Path) -> None:
    """Let certificates expire: of the authority, all of them."""
    if path.stem == "authority":
        shutil.rmtree(path.parent)
        create(path.parent, now=now() - datetime.timedelta(days=366))
    else:
        create(path.parent, renew=True, now=now() - LONG_AGO)


def hasten(path: Path) -> None:
    """Make certificates that begin tomorrow."""
    create(path.parent, renew=True, now=now() + datetime.timedelta(days=1))


CREATE = "`tidegate tls create` makes"
RENEW = "`tidegate tls create --renew` makes a new one"


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(
    ("file", "spoil", "says"),
    [
        ("authority.pem", remove, f"cannot be read: No such file or directory; {CREATE}"),
        ("{side}.pem", remove, f"cannot be read: No such file or directory; {CREATE}"),
        ("{side}.key", remove, f"cannot be read: No such file or directory; {CREATE}"),
        ("{side}.key", show_to_others, "others may read this key; run chmod 600 {path}"),
        ("authority.pem", scribble, "holds no certificates in PEM"),
        ("{side}.pem", scribble, f"holds no certificate in PEM; {RENEW}"),
        ("{side}.key", scribble, f"holds no private key in PEM; {RENEW}"),
        ("{side}.key", lock, "has a password"),
        ("{side}.key", exchange, f"is not the key of .*{{side}}.pem; {RENEW}"),
        ("authority.pem", exchange, "is not of the authority {path}"),
        ("{side}.pem", misuse, f"is for another purpose; {RENEW}"),
        ("{side}.pem", age, f"has expired; {RENEW}"),
        ("{side}.pem", hasten, "is not valid yet; is the clock right"),
        ("authority.pem", age, "the authority has expired; replace it"),
    ],
)
def test_files_that_do_not_serve_are_named_with_the_way_out(
    certificates: Path, side: str, file: str, spoil: Callable[[Path], None], says: str
) -> None:
    """Before they are used, and without asking anybody for a password."""
    path = certificates / file.format(side=side)
    spoil(path)
    says = says.format(side=side, path=path)
    with pytest.raises(InvalidInput, match=says) as caught:
        if side == "server":
            server_block(certificates, mutual=True)
        else:
            client_context(certificates)
    assert str(path) in str(caught.value)


def test_paths_of_the_block_are_absolute(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may run in another folder; less than version 1.3 it does not take."""
    monkeypatch.chdir(certificates.parent)
    block = server_block(Path(certificates.name), mutual=False)

    assert block == {
        "cert_file": str(certificates / "server.pem"),
        "key_file": str(certificates / "server.key"),
        "ca_file": str(certificates / "authority.pem"),
        "verify": False,
        "min_version": "1.3",
        "timeout": 5.0,
    }


def test_a_client_trusts_the_authority_alone(bare: Path) -> None:
    """Not those of the machine; names are checked, and old versions are not spoken."""
    context = client_context(bare)

    assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# In bulk


async def test_whoever_reads_in_bulk_speaks_tls_in_the_same_way(
    mutual: SecureBroker, bare: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the certificates of the folder; everything else is refused, with the same words."""
    monkeypatch.setattr(bulk, "_PAUSE_SECONDS", 0.01)
    seed = mutual.keyring.seed(OPERATOR)
    with BulkReader(Access(mutual.url, OPERATOR, seed, mutual.certificates)) as reader:
        assert list(reader.read()) == []
    plain = f"nats://127.0.0.1:{mutual.server.port}"
    for tls, url, words in (
        (bare, mutual.url, r"does not accept our certificate .*client\.pem"),
        (other, mutual.url, r"not of the authority that we trust"),
        (None, mutual.url, r"not of the authority that we trust"),
        (None, plain, r"the broker wants TLS; connect to tls:// with `tls`"),
    ):
        refused = pytest.raises(NotConnected, match=words)
        with BulkReader(Access(url, OPERATOR, seed, tls)) as reader, refused:
            list(reader.read())


async def test_whoever_reads_in_bulk_never_speaks_clear_text_instead(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent to a broker that does not ask for TLS."""
    monkeypatch.setattr(bulk, "_PAUSE_SECONDS", 0.01)
    keyring = Keyring(tmp_path / "keys")
    keyring.ensure(OPERATOR)
    seed = keyring.seed(OPERATOR)
    async with impostor() as (port, heard):
        for scheme, tls in (("nats", certificates), ("tls", certificates), ("tls", None)):
            clear = Access(f"{scheme}://127.0.0.1:{port}", OPERATOR, seed, tls)
            refused = pytest.raises(NotConnected, match="TLS is wanted; nothing was sent")
            with BulkReader(clear) as reader, refused:
                await asyncio.to_thread(list, reader.read())

    assert set(heard) == {b""}
