"""What proves a principal to the broker: an nkey seed, with a user JWT in operator mode."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nkeys

from tidegate_schemas.errors import InvalidInput

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s*([\w.-]+?)\s*-+END NATS USER JWT-+")
_KEY_BYTES = 35  # prefix, key, checksum
_PRIVATE = re.compile(r"\b(S[ACNOUX][A-Z2-7]{10}|P[A-Z2-7]{56})", re.IGNORECASE)
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s*(\w+)\s*-+END USER NKEY SEED-+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A seed (`SU…`), and in operator mode the JWT of its public key. Not to be printed."""

    seed: str
    jwt: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.public_key})"

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Read a seed, or a `.creds` file.

        Raises:
            InvalidInput: it is neither.
        """
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if bool(jwt) != bool(seed):
            raise InvalidInput("credentials need both a user JWT and a seed")
        found = cls(seed[1], jwt[1]) if jwt and seed else cls(text.strip())
        _ = found.public_key
        return found

    @classmethod
    def of(cls, secret: str | Path) -> Credentials:
        """Credentials from their text, or from a file that only its owner may read.

        Raises:
            InvalidInput: no such file, others may read it, or it holds no credentials.
        """
        if isinstance(secret, str):
            return cls.parse(secret)
        try:
            if secret.stat().st_mode & 0o077:
                raise InvalidInput(f"{secret}: others may read this key; run chmod 600 {secret}")
            return cls.parse(secret.read_text("ascii"))
        except OSError as error:
            raise InvalidInput(f"{secret}: no key: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"{secret}: holds no nkey seed") from None
        except InvalidInput as error:
            if str(error).startswith(str(secret)):
                raise
            raise InvalidInput(f"{secret}: {error}") from error

    @property
    def public_key(self) -> str:
        """The public key (`U…`)."""
        return public_key(self.seed)

    def sign(self, nonce: str) -> bytes:
        """The broker's challenge, signed and in base64."""
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        return base64.b64encode(bytes(pair.sign(nonce.encode())))


def public_key(seed: str) -> str:
    """The public key (`U…`) of a seed (`SU…`).

    Raises:
        InvalidInput: not a user seed.
    """
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        key = bytes(pair.public_key)
    except Exception as error:  # nkeys raises bare exceptions of several kinds
        raise InvalidInput("not an nkey seed") from error
    if not key.startswith(b"U"):
        raise InvalidInput("an nkey seed, but not of a user")
    return key.decode()


def check_public_key(text: str) -> str:
    """Return a public key of a user (`U…`), if it is one.

    Raises:
        InvalidInput: it is none; a seed is not repeated in the message.
    """
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error):
        raw = b""
    # nkeys ships no types, and leaves this one out of what pyright can infer.
    check: Any = cast(Any, nkeys).crc16_checksum(bytearray(raw[:-2]))
    if (len(raw), raw[:1]) != (_KEY_BYTES, bytes([nkeys.PREFIX_BYTE_USER])) or check != raw[-2:]:
        hidden = len(text) > 80 or _PRIVATE.search(text)
        shown = "this, which may be private," if hidden else repr(text)
        raise InvalidInput(f"{shown} is no public key of a user (`U` and 55 more characters)")
    return text
