"""Signed notes (C2SP signed-note), and cosignatures that bear a time (C2SP tlog-cosignature).

A note is a text and signature lines. A key is known by its name and four bytes of a hash; signature
lines of unknown keys are skipped, whoever wrote them.

    verifier   <name>+<8 hex digits>+<base64(algorithm || public key)>
    signer     PRIVATE+KEY+<name>+<8 hex digits>+<base64(algorithm || seed)>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidegate_schemas.errors import VerificationError

MAX_NOTE_BYTES = 1_000_000
"""Room for more than the 16 signatures that must be taken, also for post-quantum ones."""
MAX_SIGNATURES = 100

_SECRET = "PRIVATE+KEY+"  # noqa: S105  # how each secret key begins
_SIGNATURE = re.compile("\u2014 ([^ +]+) ([A-Za-z0-9+/]+={0,2})")
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_TIME_BYTES = 8
_END_OF_TIME = 1 << 63


class Algorithm(IntEnum):
    """Which kind of signature a key makes; both are Ed25519."""

    NOTE = 0x01
    """Over the text."""
    COSIGNATURE = 0x04
    """Over the text and a time."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line: who, and what they signed with."""

    name: str
    key_id: bytes
    blob: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"\u2014 {self.name} {base64.b64encode(self.key_id + self.blob).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a line end, and who signed it."""

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note; nothing is verified.

        Raises:
            VerificationError: the bytes are no note.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise VerificationError(f"a note of {len(data)} bytes; at most {MAX_NOTE_BYTES}")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise VerificationError("the note is not UTF-8") from None
        text, between, lines = whole.rpartition("\n\n")
        if not between or not lines.endswith("\n"):
            raise VerificationError("the note has no signatures")
        if _CONTROL.search(whole):
            raise VerificationError("the note holds a control character")
        found = [_signature(line) for line in lines.removesuffix("\n").split("\n")]
        if len(found) > MAX_SIGNATURES:
            raise VerificationError(f"the note has over {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(found))

    def encode(self) -> bytes:
        """The bytes of the note."""
        return f"{self.text}\n{''.join(s.line() for s in self.signatures)}".encode()

    def signed(self, *signatures: Signature) -> Note:
        """The note with more signatures; a key signs once."""
        new = {(s.name, s.key_id) for s in signatures}
        kept = (s for s in self.signatures if (s.name, s.key_id) not in new)
        return Note(self.text, (*kept, *signatures))


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with a name."""

    name: str
    algorithm: Algorithm
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a verifier.

        Raises:
            VerificationError: it is none.
        """
        name, algorithm, public, key_id = _read_key(text)
        verifier = cls(name, algorithm, public)
        if verifier.key_id != key_id:
            raise VerificationError(f"the key of {name} does not match its own hash")
        return verifier

    def __str__(self) -> str:
        return _write_key(self.name, self.key_id, self.algorithm, self.public)

    @property
    def key_id(self) -> bytes:
        """Four bytes by which signature lines name the key."""
        key = b"%b\n%c%b" % (self.name.encode(), self.algorithm, self.public)
        return hashlib.sha256(key).digest()[:4]

    def check(self, note: Note) -> int | None:
        """When this key signed, in seconds since 1970; None if it did not.

        0 where the signature bears no time.

        Raises:
            VerificationError: a signature is there and does not verify.
        """
        found = [s for s in note.signatures if (s.name, s.key_id) == (self.name, self.key_id)]
        if not found:
            return None
        if len(found) > 1:
            raise VerificationError(f"the note has two signatures of {self.name}")
        blob, time = found[0].blob, 0
        message = note.text.encode()
        if self.algorithm is Algorithm.COSIGNATURE:
            time, blob = int.from_bytes(blob[:_TIME_BYTES]), blob[_TIME_BYTES:]
            message = _timed(note.text, time)
        try:
            if time >= _END_OF_TIME:
                raise ValueError("not a time")
            Ed25519PublicKey.from_public_bytes(self.public).verify(blob, message)
        except (InvalidSignature, ValueError):
            raise VerificationError(f"the signature of {self.name} does not verify") from None
        return time


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A secret key with a name."""

    name: str
    algorithm: Algorithm
    seed: bytes

    @classmethod
    def generate(cls, name: str, algorithm: Algorithm = Algorithm.NOTE) -> Self:
        """A new one.

        Raises:
            VerificationError: the name has white space or a plus sign in it.
        """
        return cls(_checked_name(name), algorithm, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a signer. The error does not quote it.

        Raises:
            VerificationError: it is none.
        """
        if not text.startswith(_SECRET):
            raise VerificationError(f"a signing key begins with {_SECRET}")
        name, algorithm, seed, key_id = _read_key(text.removeprefix(_SECRET).strip())
        signer = cls(name, algorithm, seed)
        if signer.verifier.key_id != key_id:
            raise VerificationError(f"the signing key of {name} does not match its own hash")
        return signer

    def secret(self) -> str:
        """Its text; whoever has it can sign."""
        key = _write_key(self.name, self.verifier.key_id, self.algorithm, self.seed)
        return _SECRET + key

    @property
    def verifier(self) -> Verifier:
        """The public key."""
        public = self._key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return Verifier(self.name, self.algorithm, public)

    def sign(self, text: str, now: int) -> Signature:
        """Sign a text that ends with a line end.

        Args:
            text: the note's.
            now: seconds since 1970; part of a cosignature only.
        """
        key = self._key()
        if self.algorithm is Algorithm.NOTE:
            blob = key.sign(text.encode())
        else:
            blob = now.to_bytes(_TIME_BYTES) + key.sign(_timed(text, now))
        return Signature(self.name, self.verifier.key_id, blob)

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def read_base64(text: str) -> bytes:
    """Bytes from their one text (RFC 4648 §4).

    Raises:
        VerificationError: it is none.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError(f"not base64: {text[:40]!r}") from None
    if base64.b64encode(data).decode() != text:  # one text for each value
        raise VerificationError(f"not base64 as it is written: {text[:40]!r}")
    return data


def _timed(text: str, time: int) -> bytes:
    """What a cosignature signs."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signature(line: str) -> Signature:
    match = _SIGNATURE.fullmatch(line)
    if not match:
        raise VerificationError(f"not a signature line: {line[:60]!r}")
    blob = read_base64(match[2])
    if len(blob) < 5:
        raise VerificationError(f"the signature of {match[1]} is too short")
    return Signature(match[1], blob[:4], blob[4:])


def _read_key(text: str) -> tuple[str, Algorithm, bytes, bytes]:
    name, plus, rest = text.partition("+")
    digits, plus, encoded = rest.partition("+")
    if not plus or not re.fullmatch("[0-9a-f]{8}", digits):
        raise VerificationError("not a key: write it as name+8 hex digits+base64")
    key = read_base64(encoded)
    if len(key) != 33 or key[0] not in tuple(Algorithm):
        raise VerificationError(f"the key of {name[:40]!r} is not an Ed25519 key of a known kind")
    return _checked_name(name), Algorithm(key[0]), key[1:], bytes.fromhex(digits)


def _write_key(name: str, key_id: bytes, algorithm: Algorithm, key: bytes) -> str:
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes([algorithm]) + key).decode()}"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise VerificationError(f"{name[:40]!r} cannot name a key: no white space, no plus sign")
    return name
