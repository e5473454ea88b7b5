"""The notary: reads the ledger back from the broker and cosigns what the gateway signed of it.

It trusts neither: what the broker gives must have the root that the gateway signed, and what the
gateway signs must go on from what was signed before. What does not hold is not cosigned; it is an
alarm, the evidence is kept, and the notary looks again.

What is on its disk was verified before it was written. Starting is recovering, after a crash at any
line: it goes on from its newest checkpoint. The bus does not wait for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.frames import Entry
from tidegate_bus.telemetry import Health
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer, Verifier
from tidegate_evidence.tiles import WIDTH, TileReader, TileWriter
from tidegate_evidence.tree import HASH_BYTES, Frontier, consistency, leaf_hash, tree_hash
from tidegate_schemas.errors import LedgerGap, TidegateError, VerificationError

from .alarms import Alarms, Finding, Located, What
from .checkpoints import Checkpoints
from .cosigners import Answers, Cosigners
from .head_reader import Head, HeadReader, Mark
from .locating import first_changed, records

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.notary")

_LOOK_SECONDS = 0.1
"""How often it looks for a newer head."""
_CADENCE_SECONDS = 0.25
"""How soon one checkpoint follows another: each costs some writes that the disk must confirm."""
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 8.0
_BEAT_SECONDS = 1.0
_SPOOL_BYTES = 8 * 1024 * 1024

SIZE = Gauge("tidegate_notary_size", "Records that the newest checkpoint covers")
BEHIND = Gauge("tidegate_notary_behind", "Records that no checkpoint covers yet")
UNPUBLISHED = Gauge(
    "tidegate_notary_unpublished_seconds", "How long the oldest of these has been seen waiting"
)
ALARM = Gauge("tidegate_notary_alarm", "1 while evidence does not hold, of each kind", ["what"])
PUBLISHED = Counter("tidegate_notary_checkpoints", "Checkpoints published")
MISSED = Counter("tidegate_notary_witness_misses", "Checkpoints a witness did not sign", ["name"])
for _what in What:
    ALARM.labels(_what).set(0)


@dataclass(frozen=True, slots=True)
class NotarySettings:
    """What a notary is told.

    Attributes:
        log: the name of the log, as its records and its checkpoints say it.
        writers: gives the keys that heads may be signed with; asked again and again.
        signers: gives its own keys, of cosignatures; so is this, so a rotation needs no start.
        witnesses: key and address of each.
        keep: how many seconds a checkpoint of each day is kept.
    """

    log: str
    writers: Callable[[], Sequence[Verifier]]
    signers: Callable[[], Sequence[Signer]]
    witnesses: Sequence[tuple[Verifier, str]] = ()
    keep: float = 0.0


class _Own(msgspec.Struct):
    """What a record says of where it stands."""

    seq: int
    log: str


class _Mismatch(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


class _Stopped(Exception):
    pass


class Notary:
    """A notary of one log.

    Args:
        access: to the broker, as somebody who may read ledger and heads.
        folder: its own; nobody else writes there.
        settings: what it is told.
        health: what `/healthz` says.
        clock: ns since 1970.
    """

    def __init__(
        self,
        access: Access,
        folder: Path,
        settings: NotarySettings,
        health: Health,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._reader = BulkReader(access)
        self._heads = HeadReader(self._reader, settings.log, settings.writers)
        self._folder = folder
        self._settings = settings
        self._health = health
        self._clock = clock
        self._checkpoints = Checkpoints(folder, settings.keep)
        self._alarms = Alarms(folder / "alarms")
        self._cosigners = Cosigners(settings.witnesses)
        self._decoder = msgspec.json.Decoder(_Own)
        self._stopping = False
        self._seen = 0
        """Sequence of the head that was looked at last."""
        self._head: Head | None = None
        self._ahead: dict[int, list[Mark]] = {}
        """What was signed of more records than the newest head, by size."""
        self._last = 0
        self._published: tuple[Note, Checkpoint] | None = None
        self._tree: TileWriter | None = None
        self._frontier = Frontier()
        self._waiting: deque[tuple[float, int]] = deque()
        """When the ledger was seen to have how many records, while no checkpoint covers them."""
        self._why = ""
        self._said = set[str]()
        """The alarms since all was well."""
        self._disagree: dict[str, str] = {}
        self._proof: Finding | None = None
        """That the writer signed two histories: nothing that comes later takes it back."""

    async def run(self) -> None:
        """Work until cancelled. What does not hold, or is away, is looked at again."""
        pause = _RETRY_SECONDS
        try:
            while True:
                began = time.monotonic()
                work = asyncio.create_task(asyncio.to_thread(self.look))
                while not work.done():
                    await asyncio.wait({work}, timeout=_BEAT_SECONDS)
                    self._health.beat()
                good, published = work.result()
                if good:
                    pause = _RETRY_SECONDS
                    least = _CADENCE_SECONDS if published else _LOOK_SECONDS
                    await asyncio.sleep(max(_LOOK_SECONDS / 2, began + least - time.monotonic()))
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
        finally:
            self._stopping = True

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()
        self._cosigners.close()

    def look(self) -> tuple[bool, bool]:
        """Look once; whether all is well, and whether a checkpoint was published."""
        why, published = "", False
        try:
            published = self.step()
        except _Stopped:
            return False, False
        except _Mismatch as mismatch:
            self._forget()
            why = f"alarm: {mismatch.finding.detail}"
            if mismatch.finding.what in (What.FORK, What.ROLLBACK):
                self._proof = mismatch.finding
            try:
                self._alarm(mismatch.finding)
            except (OSError, TidegateError) as error:
                _log.error("the evidence of an alarm is not kept whole", error=str(error))
        except VerificationError as error:
            self._forget()
            why = str(error)
            self._set_tiles_aside(why)
        except (TidegateError, OSError) as error:
            self._forget()
            why = str(error)
            if why != self._why:
                _log.warning("cannot look", error=why)
        if not why:
            if self._said:
                _log.info("all is well again")
                self._said.clear()
            for what in What:
                ALARM.labels(what).set(int(what is What.WITNESS and bool(self._disagree)))
        self._why = why
        self._measure()
        if self._disagree and not why:
            self._health.fail("alarm: " + "; ".join(self._disagree.values()))
        else:
            self._health.fail(why or None)
        return not why, published

    def step(self) -> bool:
        """Look at the newest head; whether a checkpoint was published.

        After a proof that the writer signed two histories nothing is cosigned any more, until
        somebody who knows why starts the notary anew.
        """
        if self._proof:
            raise _Mismatch(self._proof)
        self._open()
        newest, self._last = self._heads.newest(), self._reader.last()
        covered = self._published[1].size if self._published else 0
        if self._last < covered:
            raise self._mismatch(
                What.MISSING,
                f"the ledger has {self._last} records; {covered} were signed",
                newest,
                Located(self._last + 1, covered, "the end of the ledger"),
            )
        if newest and (newest.seq != self._seen or self._head is None):
            head = self._verified(newest)
            marks = self._between(newest.seq)
            if head.checkpoint.size > self._frontier.size:
                self._extend(head, marks)
            elif not self._is_past(head.checkpoint.size, head.checkpoint.root):
                raise self._contradiction(head.checkpoint.size, head.data)
            # What was signed of records that are still to come is compared when they have come.
            self._ahead = {
                size: signed
                for size, found in marks.items()
                if size > head.checkpoint.size
                and (signed := [mark for mark in found if self._heads.signed(mark)])
            }
            self._seen, self._head = newest.seq, head
        if self._head and self._is_news(self._head):
            self._publish(self._head)
            return True
        return False

    # What there is already

    def _open(self) -> None:
        """Go on from the newest checkpoint.

        If the tiles are not those of it all is read anew, and must lead to that checkpoint.
        """
        if self._tree is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._published = self._checkpoints.read()
        except VerificationError as error:
            raise _Mismatch(Finding(What.CHECKPOINT, str(error))) from error
        size = self._published[1].size if self._published else 0
        try:
            frontier = TileReader(self._folder, size).frontier()
            if self._published and frontier.root() != self._published[1].root:
                raise VerificationError("they are not those of the checkpoint")
            tree = TileWriter(self._folder, size)
        except VerificationError as error:
            self._set_tiles_aside(str(error))
            frontier, tree = Frontier(), TileWriter(self._folder)
        self._frontier, self._tree = frontier, tree
        self._seen, self._head, self._ahead = 0, None, {}
        SIZE.set(size)

    def _forget(self) -> None:
        """Whatever went wrong, the disk says how far it got."""
        self._tree = None
        self._reader.close()

    def _set_tiles_aside(self, why: str) -> None:
        """The tiles do not hold: they are made anew, from the ledger."""
        tiles = self._folder / "tile"
        if not tiles.exists():
            return
        finding = Finding(What.CHECKPOINT, f"the tiles do not hold, and are made anew: {why}")
        place = self._alarms.keep(finding, self._now())
        _log.error("ALARM: the tiles do not hold; making them anew", detail=why, kept=str(place))
        if place:
            tiles.rename(place / "tile")
        else:
            shutil.rmtree(tiles)

    # What the writer says

    def _verified(self, entry: Entry) -> Head:
        """The head inside of a message.

        Raises:
            _Mismatch: it is none that the writer signed.
        """
        try:
            return self._heads.verified(entry.payload)
        except VerificationError as error:
            raise self._mismatch(
                What.HEAD, f"what the writer published last is no head of it: {error}", entry
            ) from error

    def _between(self, newest: int) -> dict[int, list[Mark]]:
        """Heads since the last look, by size; their signatures are not checked yet.

        They tell where the first difference is, and whether the writer signed two histories.

        Raises:
            _Mismatch: one is of records that were checked, and of others than these.
        """
        found = self._ahead
        after = self._seen if self._seen < newest else 0
        for size, mark in self._heads.since(after):
            self._go_on()
            if size > self._frontier.size:
                found.setdefault(size, []).append(mark)
            elif after and not self._is_past(size, mark.root) and self._heads.signed(mark):
                raise self._contradiction(size, mark.data)
        return found

    def _is_past(self, size: int, root: bytes) -> bool:
        """Whether the records that were checked begin with a tree."""
        whole = self._frontier.size
        if size == whole:
            return root == self._frontier.root()
        return root == tree_hash(size, TileReader(self._folder, whole).node)

    def _contradiction(self, size: int, data: bytes) -> _Mismatch:
        """The writer signed something else than it has signed before."""
        checked = self._frontier.size
        if size == checked:
            what, detail = What.FORK, f"the writer signed two histories of {size} records"
        else:
            what = What.ROLLBACK
            detail = f"the writer signed {checked} records, and then {size} that do not begin them"
        return self._mismatch(what, detail, Entry(0, data))

    def _is_news(self, head: Head) -> bool:
        """Whether there is something to publish: more records, or more signatures."""
        if self._published is None:
            return True
        note, checkpoint = self._published
        if head.checkpoint.size != checkpoint.size:
            return head.checkpoint.size > checkpoint.size
        signed = {(signature.name, signature.key_id) for signature in note.signatures}
        could = [
            *self._heads.keys_of(head.note),
            *(signer.verifier for signer in self._settings.signers()),
            *self._cosigners.ready(),
        ]
        return any((key.name, key.key_id) not in signed for key in could)

    # What the broker says

    def _extend(self, head: Head, marks: dict[int, list[Mark]]) -> None:
        """Read the records up to a head; keep their hashes if they lead to it.

        Raises:
            _Mismatch: they do not.
        """
        assert self._tree
        size, root = head.checkpoint.size, head.checkpoint.root
        stops = {at: found for at, found in marks.items() if at <= size}
        stops.setdefault(size, []).append(Mark(root, head.data))  # it may be gone meanwhile
        frontier = self._frontier.copy()
        with SpooledTemporaryFile(_SPOOL_BYTES, dir=str(self._folder)) as spool:
            try:
                self._fold(frontier, size, stops, spool)
            except LedgerGap as gap:
                raise self._mismatch(
                    What.MISSING,
                    f"record {gap.expected} is not there; the writer signed {size}",
                    Entry(0, head.data),
                    Located(gap.expected, gap.expected, "the sequences of the stream"),
                ) from gap
            spool.seek(0)
            self._tree.extend(_leaves(spool))
        self._tree.sync()
        self._frontier = frontier

    def _fold(
        self, frontier: Frontier, size: int, stops: dict[int, list[Mark]], spool: IO[bytes]
    ) -> None:
        if self._published and self._published[1].size > frontier.size:
            # What is read anew leads to what was published.
            note, ours = self._published
            stops.setdefault(ours.size, []).append(Mark(ours.root, note.encode(), ours=True))
        order = deque(sorted(at for at in stops if at <= size))
        good = frontier.size
        for entries in self._reader.read(frontier.size + 1, size):
            self._go_on()
            for entry in entries:
                self._check_record(entry)
            leaves = [leaf_hash(entry.payload) for entry in entries]
            spool.write(b"".join(leaves))
            position = 0
            while position < len(leaves):
                part = leaves[position : position + order[0] - frontier.size]
                frontier.extend(part)
                position += len(part)
                if frontier.size == order[0]:
                    self._compare(frontier, stops[order.popleft()], good)
                    good = frontier.size

    def _check_record(self, entry: Entry) -> None:
        try:
            own = self._decoder.decode(entry.payload)
            same = own.seq == entry.seq and own.log == self._settings.log
        except msgspec.MsgspecError:
            same = False
        if not same:
            raise self._mismatch(
                What.RECORD,
                f"record {entry.seq} does not say of itself that it is that one of "
                f"{self._settings.log}",
                None,
                Located(entry.seq, entry.seq, "what it says"),
                {f"record-{entry.seq}": entry.payload},
            )

    def _compare(self, frontier: Frontier, marks: list[Mark], good: int) -> None:
        """See whether heads of this size have the root of what was read.

        Args:
            frontier: of what was read.
            marks: what was published of that size.
            good: up to which record heads have agreed.

        Raises:
            _Mismatch: one that the writer signed has another root.
        """
        root, size = frontier.root(), frontier.size
        others = [mark.data for mark in marks if mark.root != root and self._heads.signed(mark)]
        if not others:
            return
        agreeing = [mark.data for mark in marks if mark.root == root and self._heads.signed(mark)]
        if agreeing:
            raise self._mismatch(
                What.FORK,
                f"the writer signed two histories of {size} records",
                Entry(0, others[0]),
                evidence={"head-other": agreeing[0]},
            )
        raise self._mismatch(
            What.ROOT,
            f"records {good + 1} to {size} are not those that the writer signed",
            Entry(0, others[0]),
            Located(good + 1, size, "heads"),
            {"root": root.hex().encode() + b"\n"},
        )

    # What is published

    def _publish(self, head: Head) -> None:
        before = self._published[1].size if self._published else 0
        checkpoint, now = head.checkpoint, self._now()
        keys = self._heads.keys_of(head.note)
        known = {(key.name, key.key_id) for key in keys}
        signed = Note(
            head.note.text, tuple(s for s in head.note.signatures if (s.name, s.key_id) in known)
        )
        if self._published and self._published[0].text == signed.text:
            signed = signed.signed(*self._published[0].signatures)
        reader = TileReader(self._folder, checkpoint.size)

        def proof(old: int) -> list[bytes]:
            return consistency(old, checkpoint.size, reader.node)

        answers = self._cosigners.ask(signed, checkpoint, proof)
        # Own signatures leave only with the file: whatever happens, one root was signed of a size.
        own = [signer.sign(signed.text, now) for signer in self._settings.signers()]
        note = signed.signed(*own, *answers.signatures)
        self._checkpoints.publish(note, checkpoint.size, now)
        self._published = (note, checkpoint)
        assert self._tree
        if before < checkpoint.size:
            self._tree.tidy(before)
        SIZE.set(checkpoint.size)
        PUBLISHED.inc()
        self._hear(answers)

    def _hear(self, answers: Answers) -> None:
        """Say what witnesses say; that one has seen something else is an alarm."""
        for name in (*answers.missing, *answers.disagree):
            MISSED.labels(name).inc()
        for name, why in answers.disagree.items():
            if name not in self._disagree:
                assert self._published
                note = self._published[0].encode()
                finding = Finding(What.WITNESS, why, evidence={"checkpoint": note})
                self._alarms.keep(finding, self._now())
                _log.error("ALARM: a witness disagrees", witness=name, detail=why)
        if self._disagree and not answers.disagree:
            _log.info("all witnesses agree again")
        self._disagree = dict(answers.disagree)
        ALARM.labels(What.WITNESS).set(int(bool(self._disagree)))
        signed = [signature.name for signature in answers.signatures]
        self._health.beat(witnesses=len(signed), witnesses_missing=sorted(answers.missing))

    def _measure(self) -> None:
        """How far the newest checkpoint is behind the ledger."""
        covered = self._published[1].size if self._published else 0
        now, last = time.monotonic(), self._last
        if not self._waiting or self._waiting[-1][1] < last:
            self._waiting.append((now, last))
        while self._waiting and self._waiting[0][1] <= covered:
            self._waiting.popleft()
        age = now - self._waiting[0][0] if self._waiting else 0.0
        behind = max(0, last - covered)
        BEHIND.set(behind)
        UNPUBLISHED.set(age)
        self._health.beat(size=covered, behind=behind, unpublished_seconds=round(age, 1))

    # Alarms

    def _mismatch(
        self,
        what: What,
        detail: str,
        head: Entry | None,
        located: Located | None = None,
        evidence: dict[str, bytes] | None = None,
    ) -> _Mismatch:
        """A finding with both notes."""
        kept = dict(evidence or {})
        if head:
            kept["head"] = head.payload
        if self._published:
            kept["checkpoint"] = self._published[0].encode()
        return _Mismatch(Finding(what, detail, located, kept))

    def _alarm(self, finding: Finding) -> None:
        """Say it, keep the evidence, and look for where it begins."""
        for what in What:
            ALARM.labels(what).set(int(what is finding.what))
        self._health.fail(f"alarm: {finding.detail}")
        identity = finding.detail
        if finding.what is What.HEAD:
            identity += hashlib.sha256(finding.evidence["head"]).hexdigest()
        if identity in self._said:
            return
        self._said.add(identity)
        place = self._alarms.keep(finding, self._now())
        _log.error(
            "ALARM: the evidence does not hold",
            what=finding.what,
            detail=finding.detail,
            kept=str(place) if place else "nothing: too many alarms are kept already",
        )
        if place and finding.what not in (What.HEAD, What.CHECKPOINT):
            self._locate(finding, place)

    def _locate(self, finding: Finding, place: Path) -> None:
        """Look for the first record that is not what it was when it was checked."""
        size = self._published[1].size if self._published else 0
        located, kept = finding.located, dict[str, bytes]()
        if changed := first_changed(self._reader, self._folder, size, self._go_on):
            located, kept = changed
        elif located and finding.what is What.ROOT:
            kept = records(self._reader, located)
        for name, data in kept.items():
            (place / name).write_bytes(data)
        if located:
            self._alarms.say(place, replace(finding, located=located), self._now())
            _log.error("located", first=located.first, last=located.last, by=located.by)

    def _go_on(self) -> None:
        """Raise if the process is to end: what is not finished is begun anew when it is back."""
        if self._stopping:
            raise _Stopped

    def _now(self) -> int:
        """Seconds since 1970."""
        return self._clock() // 1_000_000_000


def _leaves(spool: IO[bytes]) -> Iterator[bytes]:
    while piece := spool.read(HASH_BYTES * WIDTH):
        yield from (piece[at : at + HASH_BYTES] for at in range(0, len(piece), HASH_BYTES))
