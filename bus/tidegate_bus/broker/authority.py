"""An authority for development: makes the certificates that `tls` takes, and reads them.

Its own key stands beside them (`authority.key`), so that whoever may read the folder can make
more: for one machine, or a team's. In production the certificates are those of your authority.

Keys are ECDSA over P-256. Go's TLS and OpenSSL take Ed25519 as well, but clients with certified
cryptography, and many that are older, do not.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate_bus.identity.keyring import write_secret
from tidegate_schemas.errors import InvalidInput

from .tls import AUTHORITY, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY

if TYPE_CHECKING:  # it takes a tenth of a second to load, and a publisher never needs it
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_KEY = "authority.key"

AUTHORITY_DAYS = 365
LEAF_DAYS = 90
"""Of server and client certificates, or as long as the authority lasts."""

SOON_DAYS = 14
"""With fewer days left, people are told to renew a certificate."""

LOCAL = ("localhost", "127.0.0.1", "::1")
"""A server's certificate is always for these, and for the name of the machine."""

_ORGANIZATION = "Tidegate development"
_SKEW = datetime.timedelta(hours=1)
"""Certificates begin a little before they are made: other machines have other clocks."""

_HOST = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.|\Z))+")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. Times are in UTC."""

    path: Path
    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and IP addresses that it is for."""
    begins: datetime.datetime
    ends: datetime.datetime
    fingerprint: str
    """SHA-256 of its DER form, 64 hex digits."""

    def days_left(self, now: datetime.datetime | None = None) -> int:
        """Whole days until it ends; negative afterwards."""
        return (self.ends - (now or _now())) // datetime.timedelta(days=1)


def create(
    folder: Path,
    hosts: Iterable[str] = (),
    *,
    renew: bool = False,
    now: datetime.datetime | None = None,
) -> list[Path]:
    """Make an authority, a certificate for the server and one for clients: what is missing.

    Each file is written whole or not at all, keys before certificates, and only the owner may read
    any of them.

    Args:
        folder: where; made if it is not there.
        hosts: more names and IP addresses by which clients call the server.
        renew: make new server and client certificates, with new keys. The authority stays, so
            clients need nothing new, and the server's certificate keeps the names that it has.
        now: in UTC; by default of the system's clock.

    Returns:
        The files that were written.

    Raises:
        InvalidInput: an authority is there that was not made here, or has expired; everything is
            there already and is not to be renewed; or no name of a host.
    """
    moment = now or _now()
    names = [_checked(host) for host in hosts]
    written: list[Path] = []
    if not all((folder / name).exists() for name in (AUTHORITY, AUTHORITY_KEY)):
        for name in (AUTHORITY, AUTHORITY_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY):
            if (folder / name).exists():
                raise _not_ours(folder / name)
        written += _make_authority(folder, moment)
    certificate, key = _own_authority(folder)
    if certificate.not_valid_after_utc <= moment:
        raise InvalidInput(
            f"{folder / AUTHORITY}: the authority has expired; remove {folder} and run this again: "
            "all clients need the new one"
        )
    missing = {
        name
        for name, files in (("server", (SERVER, SERVER_KEY)), ("client", (CLIENT, CLIENT_KEY)))
        if renew or not all((folder / file).exists() for file in files)
    }
    if not missing:
        raise InvalidInput(
            f"{folder} has an authority and certificates already; nothing was written. "
            "--renew makes new certificates, of the same authority"
        )
    if "server" in missing:
        before = _read(folder / SERVER).names if (folder / SERVER).exists() else ()
        every = list(dict.fromkeys([*LOCAL, *_machine(), *before, *names]))
        written += _make_leaf(folder, SERVER, SERVER_KEY, every, certificate, key, moment)
    if "client" in missing:
        written += _make_leaf(folder, CLIENT, CLIENT_KEY, [], certificate, key, moment)
    return written


def examine(folder: Path) -> list[Certificate]:
    """The certificates of a folder: authority, server, client, as far as they are there.

    Raises:
        InvalidInput: there is none, or a file that holds none.
    """
    paths = [folder / name for name in (AUTHORITY, SERVER, CLIENT)]
    found = [_read(path) for path in paths if path.exists()]
    if not found:
        raise InvalidInput(f"no certificates in {folder}; `tidegate tls create` makes some")
    return found


def _make_authority(folder: Path, now: datetime.datetime) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _name(f"authority {serial >> 128:08x}"[:64])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    ends = now + datetime.timedelta(days=AUTHORITY_DAYS)
    builder = _builder(name, name, key, key, now, ends, serial).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    made = builder.add_extension(usage, critical=True)
    return _write(folder, AUTHORITY, AUTHORITY_KEY, made, key, key)


def _make_leaf(
    folder: Path,
    file: str,
    key_file: str,
    names: list[str],
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    ends = min(now + datetime.timedelta(days=LEAF_DAYS), authority.not_valid_after_utc)
    made = _builder(
        _name(Path(file).stem),
        authority.subject,
        key,
        authority_key,
        now,
        ends,
        x509.random_serial_number(),
    )
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(digital_signature=True), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        made = made.add_extension(alternatives, critical=False)
    return _write(folder, file, key_file, made, key, authority_key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer_key: EllipticCurvePrivateKey,
    now: datetime.datetime,
    ends: datetime.datetime,
    serial: int,
) -> x509.CertificateBuilder:
    from cryptography import x509

    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_id, critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    folder: Path,
    file: str,
    key_file: str,
    builder: x509.CertificateBuilder,
    key: EllipticCurvePrivateKey,
    issuer_key: EllipticCurvePrivateKey,
) -> list[Path]:
    from cryptography.hazmat.primitives import hashes, serialization

    certificate = builder.sign(issuer_key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    plain = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(encoding)
    for name, pem in ((key_file, plain), (file, public)):
        write_secret(folder / name, pem.decode("ascii").rstrip("\n"), replace=True)
    return [folder / key_file, folder / file]


def _own_authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """The authority that `_make_authority` made, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import NameOID

    path, key_path = folder / AUTHORITY, folder / AUTHORITY_KEY
    try:
        if key_path.stat().st_mode & 0o077:
            raise InvalidInput(f"{key_path}: others may read this key; run chmod 600 {key_path}")
        key = load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{error.filename}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:  # no PEM, of an unknown kind, or with a password
        raise _not_ours(path) from error
    made_here = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if (
        not isinstance(key, EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
        or [attribute.value for attribute in made_here] != [_ORGANIZATION]
    ):
        raise _not_ours(path)
    return certificate, key


def _not_ours(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} was not made here; nothing was written. Name another folder "
        "(server.tls_folder in tidegate.yaml), or move it away"
    )


def _read(path: Path) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        read = x509.load_pem_x509_certificate(path.read_bytes())
        alternatives = [
            str(name.value)
            for extension in read.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
            for name in extension.value
        ]
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidInput(f"{path}: holds no certificate in PEM") from error
    return Certificate(
        path,
        read.subject.rfc4514_string(),
        read.issuer.rfc4514_string(),
        tuple(alternatives),
        read.not_valid_before_utc,
        read.not_valid_after_utc,
        read.fingerprint(hashes.SHA256()).hex(),
    )


def _name(what: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, f"tidegate {what}"),
        ]
    )


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _checked(host: str) -> str:
    """A host as it stands in a certificate.

    Raises:
        InvalidInput: neither a name nor an IP address.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return host.lower().removesuffix(".")
    raise InvalidInput(f"{host!r} is no name and no IP address of a host, such as bus.example.com")


def _machine() -> list[str]:
    """The name of this machine, if it is one that a certificate may have."""
    try:
        return [_checked(socket.gethostname())]
    except InvalidInput:
        return []


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
