"""TLS between clients and the broker: a folder of PEM files, checked before they are used.

    authority.pem               whom to trust: one certificate or several
    server.pem  server.key      what the broker shows
    client.pem  client.key      what a client shows, where the broker asks for it

A certificate proves the place, an nkey proves who speaks: the one never stands in for the other.
`authority` makes such a folder for development. Needs the standard library only.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

from tidegate_schemas.errors import InvalidInput

AUTHORITY = "authority.pem"
SERVER, SERVER_KEY = "server.pem", "server.key"
CLIENT, CLIENT_KEY = "client.pem", "client.key"

_HANDSHAKE_SECONDS = 5.0
"""How long the broker waits for one."""

_ROUNDS = 4
"""Messages of each side in a handshake, and one more."""

_EXPIRED, _TOO_EARLY, _PURPOSE = 10, 9, 26
_STRANGE = {7, 18, 19, 20, 21}
_ELSEWHERE = {62, 64}
"""Codes of OpenSSL (X509_V_ERR_…, see openssl-verification-options(1))."""

_CREATE = "`tidegate tls create` makes what is missing, for development"
_RENEW = "`tidegate tls create --renew` makes a new one, for development"


def server_block(folder: Path, *, mutual: bool) -> dict[str, Any]:
    """The block `tls` for `accounts.configuration`.

    Args:
        folder: with authority, and certificate and key of the server.
        mutual: whether clients must show a certificate of the authority too.

    Raises:
        InvalidInput: a file is missing, others may read the key, the certificate has expired or
            is not of this authority, or the key is not its key; names the file and the way out.
    """
    folder = folder.absolute()
    authority, certificate, key = folder / AUTHORITY, folder / SERVER, folder / SERVER_KEY
    presenting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(presenting, certificate, key)
    verifying = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    verifying.check_hostname = False  # the broker does not know by which name it is called
    trust(verifying, authority)
    _rehearse(verifying, presenting, authority, certificate)
    return {
        "cert_file": str(certificate),
        "key_file": str(key),
        "ca_file": str(authority),
        "verify": mutual,
        "min_version": "1.3",
        "timeout": _HANDSHAKE_SECONDS,
    }


def client_context(folder: Path) -> ssl.SSLContext:
    """What a client needs to speak TLS with the broker: at least version 1.2.

    It trusts the authority in the folder and no other, wants the broker's certificate to be for
    the name or IP address that is connected to, and shows the client's certificate if there is
    one. Strict in what it verifies, as Python 3.13 is by default, under every version.

    Raises:
        InvalidInput: a file is missing, others may read the key, a certificate has expired or is
            not of this authority, or the key is not its key; names the file and the way out.
    """
    folder = folder.absolute()
    authority, certificate, key = folder / AUTHORITY, folder / CLIENT, folder / CLIENT_KEY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    trust(context, authority)
    if certificate.exists() or key.exists():
        present(context, certificate, key)
        verifying = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        present(verifying, certificate, key)  # any will do for this side of the rehearsal
        trust(verifying, authority)
        presenting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        presenting.check_hostname = False
        presenting.verify_mode = ssl.CERT_NONE  # it is not what is rehearsed
        present(presenting, certificate, key)
        _rehearse(verifying, presenting, authority, certificate)
    return context


def disagreement(wanted: bool, asked: bool) -> str:
    """Why a client that wants TLS or does not cannot go on with a broker; empty if they agree.

    What the broker asks for comes in clear text, from whoever stands between.
    """
    if wanted and not asked:
        return (
            "the broker speaks clear text, and TLS is wanted; nothing was sent. Turn on "
            "its TLS (server.tls in tidegate.yaml), or connect to nats:// without `tls`"
        )
    if asked and not wanted:
        return (
            "the broker wants TLS; connect to tls:// with `tls`, the folder with "
            "authority.pem (`tidegate tls create` makes one for development)"
        )
    return ""


def explain(error: BaseException) -> str:
    """What went wrong with a connection, and what to do; empty if it was nothing of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        match error.verify_code:
            case code if code == _EXPIRED:
                return (
                    "the broker's certificate, or the authority that we trust, has expired; renew "
                    "it (`tidegate tls create --renew` for development) and restart the broker"
                )
            case code if code in _STRANGE:
                return (
                    "the broker's certificate is not of the authority that we trust; "
                    f"take its {AUTHORITY} ({error.verify_message})"
                )
            case code if code in _ELSEWHERE:
                return (
                    f"the broker's certificate is for other names: {error.verify_message} "
                    "Connect by a name that it has, or make one with "
                    "`tidegate tls create --renew --host NAME`"
                )
            case _:
                return f"the broker's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        reason = error.reason.lower().rpartition("alert_")[2].replace("_", " ")
        if "cert" in reason or "ca" in reason.split():
            return (
                f"the broker does not accept our certificate ({reason}); it wants one of its "
                f"authority, as {CLIENT} and {CLIENT_KEY} beside {AUTHORITY}"
            )
        return f"the broker broke off the TLS handshake: {reason}"
    return ""


def trust(context: ssl.SSLContext, authority: Path) -> None:
    """Verify the other side, by this authority alone.

    Raises:
        InvalidInput: it cannot be read, or has expired; names the file.
    """
    context.verify_mode = ssl.CERT_REQUIRED
    # Partial chains: what stands in the file is trusted, also if it is no root.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise InvalidInput(f"{authority}: holds no certificates in PEM") from error
    except OSError as error:
        raise _missing(authority, error) from None
    known = context.get_ca_certs()
    if known and all(_ended(certificate["notAfter"]) for certificate in known):
        raise InvalidInput(
            f"{authority}: the authority has expired; replace it, and all certificates of it "
            f"(for development, remove {authority.parent} and run `tidegate tls create`)"
        )


def _ended(moment: Any) -> bool:
    return ssl.cert_time_to_seconds(str(moment)) < time.time()


def present(
    context: ssl.SSLContext, certificate: Path, key: Path, missing: str = _CREATE, bad: str = _RENEW
) -> None:
    """Show this certificate to the other side.

    Args:
        context: of this side.
        certificate: as PEM.
        key: of it, as PEM.
        missing: what to do where there is none.
        bad: what to do where it does not serve.

    Raises:
        InvalidInput: a file cannot be read, others may read the key, or it is another one's key;
            names the file.
    """

    def password() -> str:
        raise InvalidInput(f"{key}: has a password; a server could not read it: take it away")

    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise _missing(path, error, missing) from None
    if key.stat().st_mode & 0o077:
        raise InvalidInput(f"{key}: others may read this key; run chmod 600 {key}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise InvalidInput(f"{certificate}: holds no certificate in PEM; {bad}") from error
    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidInput(f"{key} is not the key of {certificate}; {bad}") from error
        raise InvalidInput(f"{key}: holds no private key in PEM; {bad}") from error


def _missing(path: Path, error: OSError, way_out: str = _CREATE) -> InvalidInput:
    return InvalidInput(f"{path}: cannot be read: {error.strerror}; {way_out}")


def _rehearse(
    verifying: ssl.SSLContext, presenting: ssl.SSLContext, authority: Path, certificate: Path
) -> None:
    """A handshake in memory: finds out now what the other side would find in the end."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_first = verifying.protocol is ssl.PROTOCOL_TLS_SERVER
    server, client = (verifying, presenting) if server_first else (presenting, verifying)
    sides = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for side in sides * _ROUNDS:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        match error.verify_code:
            case code if code == _EXPIRED:
                why = "has expired"
            case code if code == _TOO_EARLY:
                why = "is not valid yet; is the clock right?"
            case code if code == _PURPOSE:
                why = "is for another purpose"
            case code if code in _STRANGE:
                why = f"is not of the authority {authority}"
            case _:
                why = f"is refused: {error.verify_message}"
        raise InvalidInput(f"{certificate}: {why}; {_RENEW}") from error
    except ssl.SSLError as error:
        raise InvalidInput(f"{certificate}: does not serve for TLS: {error.reason}") from error
