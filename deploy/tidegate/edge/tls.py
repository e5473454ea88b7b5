"""TLS of the HTTP faces, and the certificates that clients show."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from tidegate.project import Project
from tidegate_bus.broker.tls import present, trust
from tidegate_schemas.distinguished import subject_of
from tidegate_schemas.errors import InvalidInput

_WAY_OUT = "put a good one there, or name it in tidegate.yaml"


def server_context(project: Project) -> ssl.SSLContext | None:
    """What the edge shows, and whose certificates of clients it believes; None for plain HTTP.

    A client need not show one: it may have a token. One that cannot be believed ends the handshake.

    Raises:
        InvalidInput: a file is missing, others may read the key, it is another certificate's, or a
            certificate has expired; names the file.
    """
    settings = project.settings.edge.tls
    if settings is None:
        return None
    context = presenting(project.root / settings.certificate, project.root / settings.key)
    if settings.clients:
        trust(context, project.root / settings.clients)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def presenting(certificate: Path, key: Path) -> ssl.SSLContext:
    """What an HTTP face shows.

    Raises:
        InvalidInput: see `server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    present(context, certificate, key, _WAY_OUT, _WAY_OUT)
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    if end <= datetime.now(UTC):
        raise InvalidInput(f"{certificate}: has expired, {end:%Y-%m-%d %H:%M} UTC; {_WAY_OUT}")
    return context


def subject_shown(transport: asyncio.BaseTransport) -> str | None:
    """The subject of the certificate that a client showed and that was believed (RFC 4514)."""
    spoken = transport.get_extra_info("ssl_object")
    shown: bytes | None = spoken.getpeercert(binary_form=True) if spoken else None
    return subject_of(shown) if shown else None
