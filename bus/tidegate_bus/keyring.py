"""Ed25519 nkeys (ADR-14), one a principal, as seed files that only their owner may read."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import nkeys

from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal


class Keyring:
    """A folder of seeds: `<team>.<name>.nk`, mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ensure(self, principal: Principal) -> str:
        """The public key of a principal; makes its seed first where there is none."""
        path = self.path(principal)
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
            part = path.with_suffix(f".{secrets.token_hex(8)}.part")
            part.touch(0o600, exist_ok=False)
            try:
                part.write_bytes(seed + b"\n")
                with contextlib.suppress(FileExistsError):  # another process was faster
                    path.hardlink_to(part)  # so a half-written seed never bears the name
            finally:
                part.unlink()
        return public_key(self.seed(principal))

    def seed(self, principal: Principal) -> str:
        """The private seed of a principal.

        Raises:
            InvalidInput: there is none, or others may read the file.
        """
        path = self.path(principal)
        try:
            if path.stat().st_mode & 0o077:
                raise InvalidInput(f"{path}: others may read this seed; run chmod 600 {path}")
            return path.read_text("ascii").strip()
        except OSError as error:
            raise InvalidInput(f"{path}: no seed for {principal}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidInput(f"{path}: not a seed") from None

    def path(self, principal: Principal) -> Path:
        """Where the seed of a principal is, or would be."""
        return self._folder / f"{principal}.nk"


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
