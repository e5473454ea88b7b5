"""Signed heads: what the gateway says of the ledger that it writes, and must never contradict.

The tree grows over the bytes that the gateway sent, not over what the broker gives back. Its head
is signed some times a second, and written down before anybody sees it; whoever starts next goes on
from there or not at all. Leaves of records on their way are written down before they are sent, so a
record that was changed while no gateway ran is found too.

    head.json   the last signed note, and the right edge of the tree then
    leaves      since when the machine runs, and the leaf hashes of the records after that head

Until the machine itself stops, every record that no head covers must be among these leaves: what
somebody else has put behind the head is not signed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from tidegate_bus.ledger import LedgerReader
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.tree import HASH_BYTES, Frontier, leaf_hash
from tidegate_schemas.errors import VerificationError

HEAD_SECONDS = 0.25
HEAD_RECORDS = 1000
"""A head is signed when a record has waited so long for it, or so many have."""

HEAD = "head.json"
"""The file of what was signed last."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES = 36
_UNKNOWN = b" " * _BOOT_BYTES
_HEAD = struct.Struct(">QI")  # of a batch: sequence of its first record, and how many it has
_WAY_OUT = (
    "Nothing is signed that contradicts it. Restore the ledger's streams as they were; if that "
    "cannot be, keep what is there as evidence and begin another log, a project of another name"
)

_Batch = tuple[int, list[bytes]]
"""Leaf hashes of records that were sent, and the sequence of the first of them."""

Signers = Callable[[], Sequence[Signer]]
"""The writer's keys, newest first; asked for each head, so that a rotation needs no start."""


Publish = Callable[[bytes], Awaitable[None]]
"""How a head gets out; returns when it is stored."""


class Head(msgspec.Struct, frozen=True):
    """What was signed last.

    Attributes:
        note: the signed checkpoint.
        edge: hashes of the perfect subtrees, the largest first, as hex digits.
        last: the leaf hash of the last record, as hex digits.
    """

    note: str
    edge: tuple[str, ...]
    last: str


class Heads:
    """The tree of one partition's ledger, and the heads that were signed of it.

    Args:
        folder: where it is written down; nobody else writes there.
        origin: name of the log.
        signers: the writer's keys.
    """

    def __init__(self, folder: Path, origin: str, signers: Signers) -> None:
        self._folder = folder
        self._origin = origin
        self._signers = signers
        self._frontier = Frontier()
        self._last = b""
        self._signed = 0
        self._sent: list[_Batch] = []  # no head covers all of these yet
        self._journal = -1
        self._grown = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None  # the head that is being written down

    @property
    def size(self) -> int:
        """How many records the tree has."""
        return self._frontier.size

    @property
    def signed(self) -> int:
        """How many of them the last head covers."""
        return self._signed

    async def recover(self, reader: LedgerReader, tail: int, published: bytes | None) -> None:
        """Go on from what was signed last, up to the ledger's last record.

        Args:
            reader: of the ledger.
            tail: sequence of its last record.
            published: the newest head that anybody has seen, if there is one.

        Raises:
            VerificationError: the ledger is not the one that was signed.
            OSError: what was written down cannot be read.
        """
        if self._writing:
            await asyncio.gather(self._writing, return_exceptions=True)
        head = self._read()
        if head:
            self._frontier, self._last = self._check(head)
        else:
            self._frontier, self._last = Frontier(), b""
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._signed = self._frontier.size
        if tail < self._signed:
            raise self._contradiction(f"it ends at record {tail}", self._signed)
        known = self._known(published)
        sent, complete = self._leaves()
        self._sent = [batch for batch in sent if _end(batch) > self._signed]
        written: dict[int, set[bytes]] = {}
        for first, leaves in self._sent:  # some more than once: they had to be decided again
            for seq, leaf in enumerate(leaves, first):
                written.setdefault(seq, set()).add(leaf)
        start = max(self._signed, 1)  # the last one that was signed is looked at again
        async for stored in reader.read(start):
            leaf = leaf_hash(stored.payload)
            if stored.seq <= self._signed:
                if leaf != self._last:
                    raise self._contradiction(f"record {stored.seq} is another", self._signed)
                continue
            if leaf not in written.get(stored.seq, () if complete else (leaf,)):
                raise VerificationError(
                    f"record {stored.seq} of {self._origin} is not the one that this gateway "
                    f"wrote. {_WAY_OUT}"
                )
            self._frontier.append(leaf)
            self._last = leaf
            if known and known.size == stored.seq and known.root != self._frontier.root():
                raise self._contradiction("its records are others", known.size)
        if known and known.size > self._frontier.size:
            raise self._contradiction(f"it ends at record {self._frontier.size}", known.size)
        if complete or self._frontier.size == self._signed:
            self._begin_journal()
        else:
            # These records were taken as they are, as the machine had stopped. A start after this
            # one, on the same run of the machine, would look for their leaves.
            await self.sign(int(time.time()))
        self._grown.set()

    def sending(self, first: int, leaves: list[bytes]) -> None:
        """Write down the leaves of records, before they are sent.

        Raises:
            OSError: the disk does not take it.
        """
        self._sent.append((first, leaves))
        data = _written((first, leaves))
        if os.write(self._journal, data) < len(data):
            # What comes after half a batch could not be read.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / "leaves"))

    def stored(self, leaves: Sequence[bytes]) -> None:
        """The ledger has these records, in order."""
        self._frontier.extend(leaves)
        self._last = leaves[-1]
        if self._frontier.size - self._signed >= HEAD_RECORDS:
            self._grown.set()

    async def run(self, publish: Publish) -> None:
        """Sign and publish heads, for ever.

        Raises:
            VerificationError: there is no key.
            Unavailable: the broker does not store it.
            OSError: the disk does not take it.
        """
        if note := self._read():  # of the one before, perhaps nobody has heard
            await publish(note.note.encode())
        while True:
            if self._frontier.size > self._signed:
                await publish(await self.sign(int(time.time())))
            with suppress(TimeoutError):
                async with asyncio.timeout(HEAD_SECONDS):
                    await self._grown.wait()
            self._grown.clear()

    async def sign(self, now: int) -> bytes:
        """The head of the tree as it is: signed, and written down to stay.

        Args:
            now: seconds since 1970.

        Raises:
            VerificationError: there is no key.
            OSError: the disk does not take it.
        """
        size, edge, last = self._frontier.size, self._frontier.hashes, self._last
        text = Checkpoint(self._origin, size, self._frontier.root()).text()
        keys = self._signers()
        if not keys:
            raise VerificationError(f"there is no key to sign {self._origin} with")
        note = Note(text).signed(*(key.sign(text, now) for key in keys)).encode()
        head = Head(note.decode(), tuple(one.hex() for one in edge), last.hex())
        # Whoever is cancelled meanwhile leaves it to `recover` to wait: a slow disk may write on.
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, head))
        await asyncio.shield(self._writing)
        self._signed = size
        self._sent = [batch for batch in self._sent if _end(batch) > size]
        self._begin_journal()
        return note

    def close(self) -> None:
        """Write nothing more."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _check(self, head: Head) -> tuple[Frontier, bytes]:
        """The tree that a head was signed of."""
        checkpoint = self._verified(head.note.encode())
        try:
            edge, last = [bytes.fromhex(one) for one in head.edge], bytes.fromhex(head.last)
        except ValueError:
            raise VerificationError(f"{self._file}: not as it was written") from None
        frontier = Frontier(checkpoint.size, edge)
        if frontier.root() != checkpoint.root:
            raise VerificationError(f"{self._file}: the edge is not of the tree that was signed")
        return frontier, last

    def _known(self, published: bytes | None) -> Checkpoint | None:
        """What everybody has seen signed, if it is more than what is written down here."""
        if published is None:
            return None
        try:
            checkpoint = self._verified(published)
        except VerificationError:  # by a key that is gone, or by nobody: the notary looks after it
            return None
        if checkpoint.size == self._signed and checkpoint.root != self._frontier.root():
            raise self._contradiction("another head of it was signed", checkpoint.size)
        return checkpoint if checkpoint.size > self._signed else None

    def _verified(self, data: bytes) -> Checkpoint:
        note = Note.parse(data)
        if not any(key.verifier.check(note) is not None for key in self._signers()):
            raise VerificationError(f"{self._file}: not signed by a key of {self._origin}")
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != self._origin:
            raise VerificationError(f"{self._file}: of {checkpoint.origin}, not {self._origin}")
        return checkpoint

    def _contradiction(self, what: str, size: int) -> VerificationError:
        return VerificationError(
            f"the ledger is not the one of which {self._origin} has signed {size} records: "
            f"{what}. {_WAY_OUT}"
        )

    @property
    def _file(self) -> Path:
        return self._folder / HEAD

    def _read(self) -> Head | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Head)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise VerificationError(f"{self._file}: {error}") from error

    def _write(self, head: Head) -> None:
        part = self._file.with_suffix(".part")
        with part.open("wb") as file:
            file.write(msgspec.json.encode(head))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _leaves(self) -> tuple[list[_Batch], bool]:
        """What was sent, and whether it is all that was."""
        try:
            data = (self._folder / "leaves").read_bytes()
        except FileNotFoundError:
            return [], False
        boot, data = data[:_BOOT_BYTES], data[_BOOT_BYTES:]
        return list(_batches(data)), boot == _boot() != _UNKNOWN

    def _begin_journal(self) -> None:
        """Begin the file of leaves again, with those that no head covers.

        It need not outlive the machine, only the gateway.
        """
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / "leaves"
        part = path.with_suffix(".part")
        part.write_bytes(_boot() + b"".join(map(_written, self._sent)))
        part.replace(path)
        self._journal = os.open(path, os.O_WRONLY | os.O_APPEND)


def _boot() -> bytes:
    """Which start of the machine this is: what was written and not synced outlives all but that."""
    try:
        return _BOOT.read_bytes()[:_BOOT_BYTES].ljust(_BOOT_BYTES)
    except OSError:  # not Linux
        return _UNKNOWN


def _end(batch: _Batch) -> int:
    """Sequence of its last record."""
    return batch[0] + len(batch[1]) - 1


def _written(batch: _Batch) -> bytes:
    first, leaves = batch
    return _HEAD.pack(first, len(leaves)) + b"".join(leaves)


def _batches(data: bytes) -> Iterator[_Batch]:
    """What is in a file of leaves; the last batch may be cut off."""
    at = 0
    while at + _HEAD.size <= len(data):
        first, count = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size
        at = begin + count * HASH_BYTES
        if at > len(data):
            return
        yield first, [data[i : i + HASH_BYTES] for i in range(begin, at, HASH_BYTES)]
