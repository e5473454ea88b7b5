"""What the writer of a ledger says of it: its signed heads, read from the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tidegate_bus.bulk import BulkReader
from tidegate_bus.frames import Entry
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Verifier
from tidegate_schemas.errors import VerificationError


@dataclass(frozen=True, slots=True)
class Head:
    """What the writer published, its signature verified."""

    note: Note
    checkpoint: Checkpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody published as a head: a root, to be compared before the signature is verified.

    Of those of our own checkpoint it need not be: whose key it was may be gone.
    """

    root: bytes
    data: bytes
    ours: bool = False


class HeadReader:
    """Reads the heads of one log.

    Args:
        reader: of the broker.
        log: its name.
        writers: gives the keys that its heads may be signed with.
    """

    def __init__(
        self, reader: BulkReader, log: str, writers: Callable[[], Sequence[Verifier]]
    ) -> None:
        self._reader = reader
        self.log = log
        self._writers = writers

    def newest(self) -> Entry | None:
        """What was published last.

        Raises:
            Unavailable: the broker does not answer.
        """
        return self._reader.newest_head()

    def since(self, after: int) -> Iterator[tuple[int, Mark]]:
        """What was published after a sequence, with its size; what is no head is left out.

        Raises:
            Unavailable: the broker does not answer.
        """
        for entries in self._reader.heads(after):
            for entry in entries:
                try:
                    text = entry.payload.partition(b"\n\n")[0].decode()
                    checkpoint = Checkpoint.parse(f"{text}\n")
                except (VerificationError, UnicodeDecodeError):
                    continue
                if checkpoint.origin == self.log:
                    yield checkpoint.size, Mark(checkpoint.root, entry.payload)

    def verified(self, data: bytes) -> Head:
        """The head inside of a message.

        Raises:
            VerificationError: it is none that the writer signed.
        """
        note = Note.parse(data)
        if not self.keys_of(note):
            raise VerificationError("no key of the writer signed it")
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != self.log:
            raise VerificationError(f"it is of the log {checkpoint.origin}")
        return Head(note, checkpoint, data)

    def signed(self, mark: Mark) -> bool:
        """Whether the writer signed what somebody published."""
        try:
            self.verified(mark.data)
        except VerificationError:
            return mark.ours
        return True

    def keys_of(self, note: Note) -> list[Verifier]:
        """The keys of the writer that signed a note.

        Raises:
            VerificationError: a signature of one is there and does not verify.
        """
        return [key for key in self._writers() if key.check(note) is not None]
