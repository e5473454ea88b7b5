"""What the tests of the edge share: a project, an OpenID provider, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from support import until
from tidegate.identities import ensure_keys
from tidegate.project import Project, load_project
from tidegate.tokens import Tokens
from tidegate_schemas.subjects import Principal

SETTINGS = """
project: demo
publishers: [outside.web, outside.hooks]
"""
WEB = Principal("outside", "web")


def made(folder: Path, settings: str = "") -> Project:
    """A project whose principals have keys, as after a first start."""
    (folder / "tidegate.yaml").write_text(SETTINGS + settings)
    project = load_project(folder)
    ensure_keys(project, time.time_ns())
    return project


def token_of(project: Project, principal: Principal = WEB, **fields: Any) -> str:
    """The header with a new token."""
    _, text = Tokens(project.state.tokens).add(principal, now=time.time_ns(), **fields)
    return f"Bearer {text}"


@contextlib.contextmanager
def up(
    folder: Path, config: pytest.Config, environment: Mapping[str, str] = MappingProxyType({})
) -> Generator[None]:
    """Run `tidegate up` in a project, with more in its environment; it is ready and ends well."""
    more = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": config.cache.mkdir("bytecode")}
    everything = {**os.environ, **{k: str(v) for k, v in more.items()}, **environment}
    log = folder / "up.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tidegate", "up"]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=everything,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        ready = until(lambda: "Ctrl-C stops" in log.read_text() or bool(process.poll()), seconds=60)
        asyncio.run(ready)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()


class Provider:
    """An OpenID provider: it signs tokens, and serves its keys over HTTP."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        self.answer: Callable[[], tuple[int, bytes]] = lambda: (200, self.jwks())
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                status, body = provider.answer()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.add("one", "ES256")

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, id: str, algorithm: str) -> None:
        """Make a key."""
        made: Any = ec.generate_private_key(ec.SECP256R1())
        if algorithm.startswith(("RS", "PS")):
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.keys[id] = algorithm, made

    def jwks(self) -> bytes:
        """The public keys."""
        found: list[dict[str, Any]] = []
        for id, (algorithm, key) in self.keys.items():
            kind = jwt.get_algorithm_by_name(algorithm)
            public: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
            found.append({**public, "kid": id, "alg": algorithm, "use": "sig"})
        return json.dumps({"keys": found}).encode()

    def token(self, id: str = "one", key: Any = None, algorithm: str = "", **claims: Any) -> str:
        """A token that is good for five minutes, unless the claims say otherwise."""
        said: dict[str, Any] = {
            "iss": self.url,
            "aud": "tidegate",
            "sub": "ada",
            "exp": int(time.time()) + 300,
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        own = self.keys.get(id, (None, None))
        return jwt.encode(said, key or own[1], algorithm or own[0], headers={"kid": id})


class Authority:
    """Signs certificates, as PEM files in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string(f"CN={name}")
        own = self._sign(self._name, self._key, days=1, ca=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(own)

    def make(self, subject: str, file: str, *, days: int = 1) -> tuple[Path, Path]:
        """A certificate for this subject and 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(self._sign(x509.Name.from_rfc4514_string(subject), key, days=days))
        paths[1].touch(0o600)
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def _sign(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        *,
        days: int,
        ca: bool = False,
    ) -> bytes:
        now, own = datetime.now(UTC), self._key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage),
                critical=True,
            )
            .add_extension(identifier(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
