"""The vault: keys of data subjects, in a file that only the gateway writes.

Outside of the ledger, so that a key can be destroyed: with it go all messages sealed with it, in
every copy of the ledger, and whose data they were. A key is for a data subject and a month, so that
data can also be let go by its age.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tidegate_schemas.custody import SealKey
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, Unavailable, Unopened
from tidegate_schemas.personal import (
    KEY_BYTES,
    SALT_BYTES,
    KeyId,
    key_id,
    message_key,
    sealed,
)

from .privacy import Privacy

_SCHEMA = """
CREATE TABLE IF NOT EXISTS subjects (pseudonym TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    pseudonym TEXT NOT NULL, month TEXT NOT NULL, key BLOB NOT NULL, PRIMARY KEY (pseudonym, month)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS months ON keys (month);
"""
_PSEUDONYM_BYTES = 16
_BUSY_SECONDS = 5.0


class Vault:
    """Keys of data subjects. Make one with `open`, close it, or use it in `with`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Strictly private: use `open` or `read`."""
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """The vault in a file; makes an empty one where there is none.

        What is deleted is overwritten with zeros. A change is kept in a journal beside the file
        until it is done; the journal is deleted then, and so is one that a crash has left.

        Raises:
            InvalidInput: it is no vault, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            for pragma in ("secure_delete=ON", "journal_mode=DELETE", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{path}: no vault of keys: {why}") from error
        return cls(connection, path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The vault in a file, only to be read; None where there is none.

        Raises:
            InvalidInput: it is no vault, or cannot be read.
        """
        if not path.exists():
            return None
        try:
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
            connection.execute("SELECT count(*) FROM keys WHERE month < ''")
        except (OSError, sqlite3.Error) as error:
            raise InvalidInput(f"{path}: no vault of keys: {error}") from error
        return cls(connection, path)

    def seal(self, subjects: Sequence[str], month: str) -> SealKey:
        """What to seal a message with.

        Args:
            subjects: whom it is about: names, which get a pseudonym the first time, or ids of keys.
            month: of the keys.

        Raises:
            Unopened: `erased`; nothing is kept of what a key id stands for.
        """
        with self._change() as connection:
            keys: dict[KeyId, bytes] = {}
            for subject in subjects:
                before = key_id(subject)
                pseudonym = before.pseudonym if before else self._pseudonym(connection, subject)
                if before and not self._known(pseudonym):
                    raise Unopened(Unopened.ERASED, f"{subject}: nothing is kept of it any more")
                key = KeyId(pseudonym, month)
                keys[key] = self._find(key) or self._add(connection, key)
        salt = secrets.token_bytes(SALT_BYTES)
        return SealKey(",".join(map(str, keys)), salt, message_key([*keys.values()], salt))

    def key(self, envelope: Envelope) -> bytes | None:
        """See `privacy.Opener`.

        Raises:
            InvalidEnvelope: it is not sealed.
        """
        terms = sealed(envelope)
        keys = [self._find(key) for key in terms.keys]
        return None if None in keys else message_key([key for key in keys if key], terms.salt)

    def find(self, name: str) -> str | None:
        """The pseudonym of a data subject."""
        row = self._row("SELECT pseudonym FROM subjects WHERE name = ?", name)
        return row[0] if row else None

    def oldest(self) -> str | None:
        """The first month of which there is a key."""
        row = self._row("SELECT min(month) FROM keys")
        return row[0] if row else None

    def destroy(self, privacy: Privacy) -> int:
        """Destroy what is gone by the ledger; how many keys that were.

        When it returns, no byte of them is in the file or beside it.
        """
        with self._change() as connection:
            before = connection.total_changes
            for pseudonym in privacy.erased:
                connection.execute("DELETE FROM keys WHERE pseudonym = ?", (pseudonym,))
            late = "SELECT DISTINCT pseudonym FROM keys WHERE month < ?"
            for (pseudonym,) in connection.execute(late, (privacy.before,)).fetchall():
                hold = privacy.holds.get(pseudonym)
                rest = (pseudonym, hold.before if hold else privacy.before)
                connection.execute("DELETE FROM keys WHERE pseudonym = ? AND month < ?", rest)
            destroyed = connection.total_changes - before
            if destroyed:
                connection.execute(
                    "DELETE FROM subjects WHERE pseudonym NOT IN (SELECT pseudonym FROM keys)"
                )
        return destroyed

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _pseudonym(self, connection: sqlite3.Connection, name: str) -> str:
        found = self.find(name)
        if found is None:
            found = secrets.token_hex(_PSEUDONYM_BYTES)
            connection.execute("INSERT INTO subjects VALUES (?, ?)", (found, name))
        return found

    def _add(self, connection: sqlite3.Connection, key: KeyId) -> bytes:
        secret = secrets.token_bytes(KEY_BYTES)
        connection.execute("INSERT INTO keys VALUES (?, ?, ?)", (*key, secret))
        return secret

    def _known(self, pseudonym: str) -> bool:
        return bool(self._row("SELECT 1 FROM subjects WHERE pseudonym = ?", pseudonym))

    def _find(self, key: KeyId) -> bytes | None:
        row = self._row("SELECT key FROM keys WHERE pseudonym = ? AND month = ?", *key)
        return row[0] if row else None

    def _row(self, query: str, *values: str) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path}: {error}") from error
        return found

    @contextlib.contextmanager
    def _change(self) -> Generator[sqlite3.Connection]:
        """All of it or nothing, and on the disk at the end.

        Raises:
            Unavailable: it cannot be written.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path}: {error}") from error
