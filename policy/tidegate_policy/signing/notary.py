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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.telemetry import Health
from tidegate_evidence.note import Signer, Verifier
from tidegate_schemas.errors import TidegateError, VerificationError

from .alarms import Alarms, Finding, Located, Mismatch, What
from .checkpoints import Checkpoints
from .cosigners import Answers, Cosigners
from .head_reader import HeadReader
from .locating import first_changed, records
from .publishing import Publisher
from .readback import Readback

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.notary")

_LOOK_SECONDS = 0.1
"""How often it looks for a newer head."""
_CADENCE_SECONDS = 0.25
"""How soon one checkpoint follows another: each costs some writes that the disk must confirm."""
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 8.0
_BEAT_SECONDS = 1.0

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
        self._health = health
        self._clock = clock
        self._cosigners = Cosigners(settings.witnesses)
        self._publisher = Publisher(
            folder,
            Checkpoints(folder, settings.keep),
            self._heads,
            settings.signers,
            self._cosigners,
        )
        self._readback: Readback | None = None
        """None until the disk was looked at, also after anything went wrong."""
        self._alarms = Alarms(folder / "alarms")
        self._stopping = False
        self._last = 0
        """Sequence of the newest record."""
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
        except Mismatch as mismatch:
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
            raise Mismatch(self._proof)
        readback = self._readback or self._recover()
        newest, self._last = self._heads.newest(), self._reader.last()
        covered = self._publisher.size
        if self._last < covered:
            raise Mismatch(
                Finding(
                    What.MISSING,
                    f"the ledger has {self._last} records; {covered} were signed",
                    Located(self._last + 1, covered, "the end of the ledger"),
                    {"head": newest.payload} if newest else {},
                )
            )
        if newest:
            readback.follow(newest)
        if readback.head and self._publisher.is_news(readback.head):
            answers = self._publisher.publish(readback.head, readback.tiles, self._now())
            SIZE.set(self._publisher.size)
            PUBLISHED.inc()
            self._hear(answers)
            return True
        return False

    def _measure(self) -> None:
        """How far the newest checkpoint is behind the ledger."""
        covered = self._publisher.size
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

    # Recovery

    def _recover(self) -> Readback:
        """Go on from the newest checkpoint.

        If the tiles are not those of it all is read anew, and must lead to that checkpoint.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._publisher.recover()
        except VerificationError as error:
            raise Mismatch(Finding(What.CHECKPOINT, str(error))) from error
        published = self._publisher.published
        begin = partial(Readback, self._reader, self._heads, self._folder, published, self._go_on)
        try:
            self._readback = begin()
        except VerificationError as error:
            self._set_tiles_aside(str(error))
            self._readback = begin(anew=True)
        SIZE.set(self._publisher.size)
        return self._readback

    def _forget(self) -> None:
        """Whatever went wrong, the disk says how far it got."""
        self._readback = None
        self._reader.close()

    def _set_tiles_aside(self, why: str) -> None:
        """The tiles do not hold: they are made anew, from the ledger."""
        tiles = self._folder / "tile"
        if not tiles.exists():
            return
        finding = Finding(What.CHECKPOINT, f"the tiles do not hold, and are made anew: {why}")
        place = self._keep(finding)
        _log.error("ALARM: the tiles do not hold; making them anew", detail=why, kept=str(place))
        if place:
            tiles.rename(place / "tile")
        else:
            shutil.rmtree(tiles)

    # Alarms

    def _hear(self, answers: Answers) -> None:
        """Say what witnesses say; that one has seen something else is an alarm."""
        for name in (*answers.missing, *answers.disagree):
            MISSED.labels(name).inc()
        for name, why in answers.disagree.items():
            if name not in self._disagree:
                self._keep(Finding(What.WITNESS, why))
                _log.error("ALARM: a witness disagrees", witness=name, detail=why)
        if self._disagree and not answers.disagree:
            _log.info("all witnesses agree again")
        self._disagree = dict(answers.disagree)
        ALARM.labels(What.WITNESS).set(int(bool(self._disagree)))
        signed = [signature.name for signature in answers.signatures]
        self._health.beat(witnesses=len(signed), witnesses_missing=sorted(answers.missing))

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
        place = self._keep(finding)
        _log.error(
            "ALARM: the evidence does not hold",
            what=finding.what,
            detail=finding.detail,
            kept=str(place) if place else "nothing: too many alarms are kept already",
        )
        if place and finding.what not in (What.HEAD, What.CHECKPOINT):
            self._locate(finding, place)

    def _keep(self, finding: Finding) -> Path | None:
        """Keep the evidence, with what was published; where it is, as `Alarms.keep` says it."""
        kept = dict(finding.evidence)
        if self._publisher.published and finding.what is not What.CHECKPOINT:
            kept["checkpoint"] = self._publisher.published[0].encode()
        return self._alarms.keep(replace(finding, evidence=kept), self._now())

    def _locate(self, finding: Finding, place: Path) -> None:
        """Look for the first record that is not what it was when it was checked."""
        located, kept = finding.located, dict[str, bytes]()
        if changed := first_changed(self._reader, self._folder, self._publisher.size, self._go_on):
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
