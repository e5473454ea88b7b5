"""Ed25519 nkeys (ADR-14), one a principal, in files that only their owner may read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import nkeys

from tidegate_schemas.subjects import Principal

from .credentials import Credentials, public_key


class Keyring:
    """A folder of seeds: `<team>.<name>.nk`, mode 0600.

    In operator mode `<team>.<name>.creds` stands beside it: the seed with the JWT.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ensure(self, principal: Principal) -> str:
        """The public key of a principal; makes its seed first where there is none."""
        path = self._seed_path(principal)
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                write_secret(path, new_seed(), replace=False)
        return Credentials.of(path).public_key

    def propose(self, principal: Principal) -> str:
        """Make a seed beside the one that is in use; its public key."""
        seed = new_seed()
        write_secret(self._next_path(principal), seed, replace=True)
        return public_key(seed)

    def adopt(self, principal: Principal, key: str) -> None:
        """Use the seed that was proposed, if there is one with this public key."""
        path = self._next_path(principal)
        if path.exists() and Credentials.of(path).public_key == key:
            path.replace(self._seed_path(principal))

    def withdraw(self, principal: Principal) -> None:
        """Remove the seed that was proposed, if there is one: nobody will ask for it."""
        self._next_path(principal).unlink(missing_ok=True)

    def forget(self, principal: Principal) -> None:
        """Remove what there is of a principal."""
        self._seed_path(principal).unlink(missing_ok=True)
        self._next_path(principal).unlink(missing_ok=True)
        self.creds_path(principal).unlink(missing_ok=True)
        self.token_path(principal).unlink(missing_ok=True)

    def seed(self, principal: Principal) -> str:
        """The private seed of a principal.

        Raises:
            InvalidInput: there is none, or others may read the file.
        """
        return Credentials.of(self.path(principal)).seed

    def path(self, principal: Principal) -> Path:
        """The file to connect with: the credentials where there are some, else the seed."""
        creds = self.creds_path(principal)
        return creds if creds.exists() else self._seed_path(principal)

    def files(self, principal: Principal) -> tuple[Path, Path]:
        """The files that `path` chooses from, whether they are there or not."""
        return self._seed_path(principal), self.creds_path(principal)

    def creds_path(self, principal: Principal) -> Path:
        """Where the credentials of operator mode are, or would be."""
        return self._folder / f"{principal}.creds"

    def token_path(self, principal: Principal) -> Path:
        """Where, in operator mode, the token for a key is whose seed somebody else has."""
        return self._folder / f"{principal}.jwt"

    def find_seed(self, principal: Principal) -> str | None:
        """The private seed of a principal, or None where it is kept elsewhere.

        Raises:
            InvalidInput: others may read the file, or it holds no seed.
        """
        path = self._seed_path(principal)
        return Credentials.of(path).seed if path.exists() else None

    def _next_path(self, principal: Principal) -> Path:
        return self._folder / f"{principal}.next"

    def _seed_path(self, principal: Principal) -> Path:
        return self._folder / f"{principal}.nk"


def new_seed(prefix: int = nkeys.PREFIX_BYTE_USER) -> str:
    """A random seed, by default of a user (`SU…`)."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix)).decode()


def write_secret(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that only its owner may read; it is there whole, or not at all.

    Also when the power fails meanwhile.

    Raises:
        FileExistsError: it is there already, and is not to be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(f".{secrets.token_hex(8)}.part")
    part.touch(0o600, exist_ok=False)
    try:
        with part.open("r+b") as file:
            file.write(f"{text.rstrip()}\n".encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            path.hardlink_to(part)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)
