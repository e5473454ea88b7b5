"""Publishing what a notary vouches for: a head of the writer, cosigned by it and by witnesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.tiles import TileReader, TileWriter
from tidegate_evidence.tree import consistency

from .checkpoints import Checkpoints
from .cosigners import Answers, Cosigners
from .head_reader import Head, HeadReader


class Publisher:
    """Publishes the checkpoints of one log.

    Args:
        folder: the notary's.
        checkpoints: those there.
        heads: tells which keys of the writer signed.
        signers: gives the notary's own keys.
        cosigners: the witnesses.
    """

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        heads: HeadReader,
        signers: Callable[[], Sequence[Signer]],
        cosigners: Cosigners,
    ) -> None:
        self._folder = folder
        self._checkpoints = checkpoints
        self._heads = heads
        self._signers = signers
        self._cosigners = cosigners
        self.published: tuple[Note, Checkpoint] | None = None
        """The newest checkpoint."""

    @property
    def size(self) -> int:
        """How many records the newest checkpoint covers."""
        return self.published[1].size if self.published else 0

    def recover(self) -> None:
        """Go on from the newest checkpoint on disk.

        Raises:
            VerificationError: the file does not hold one.
            OSError: it cannot be read.
        """
        self.published = self._checkpoints.read()

    def is_news(self, head: Head) -> bool:
        """Whether there is something to publish: more records, or more signatures."""
        if self.published is None:
            return True
        note, checkpoint = self.published
        if head.checkpoint.size != checkpoint.size:
            return head.checkpoint.size > checkpoint.size
        signed = {(signature.name, signature.key_id) for signature in note.signatures}
        could = [
            *self._heads.keys_of(head.note),
            *(signer.verifier for signer in self._signers()),
            *self._cosigners.ready(),
        ]
        return any((key.name, key.key_id) not in signed for key in could)

    def publish(self, head: Head, tiles: TileWriter, now: int) -> Answers:
        """Cosign a head that holds, and publish it; what the witnesses answered.

        Args:
            head: of records that were read back.
            tiles: of these; those that only the checkpoint before needed are removed.
            now: seconds since 1970.

        Raises:
            OSError: the disk does not take it.
        """
        before, checkpoint = self.size, head.checkpoint
        keys = self._heads.keys_of(head.note)
        known = {(key.name, key.key_id) for key in keys}
        signed = Note(
            head.note.text, tuple(s for s in head.note.signatures if (s.name, s.key_id) in known)
        )
        if self.published and self.published[0].text == signed.text:
            signed = signed.signed(*self.published[0].signatures)
        reader = TileReader(self._folder, checkpoint.size)

        def proof(old: int) -> list[bytes]:
            return consistency(old, checkpoint.size, reader.node)

        answers = self._cosigners.ask(signed, checkpoint, proof)
        # Own signatures leave only with the file: whatever happens, one root was signed of a size.
        own = [signer.sign(signed.text, now) for signer in self._signers()]
        note = signed.signed(*own, *answers.signatures)
        self._checkpoints.publish(note, checkpoint.size, now)
        self.published = (note, checkpoint)
        if before < checkpoint.size:
            tiles.tidy(before)
        return answers
