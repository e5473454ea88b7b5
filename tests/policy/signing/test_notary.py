"""The notary against a live broker: what it cosigns, and what it never does."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from policy.signing.writer import HEADS, LOG, Writer, access, record, tiles_hold, tree
from support import Broker
from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.telemetry import Health
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer, Verifier
from tidegate_evidence.trust import Trust, Witness
from tidegate_policy.signing.notary import Notary, NotarySettings
from tidegate_schemas.errors import InvalidInput

SIGNER = Signer.generate("test/notary", Algorithm.COSIGNATURE)


class Office:
    """A notary and its folder."""

    def __init__(self, broker: Broker, keys: list[Verifier], signers: tuple[Signer, ...]) -> None:
        self._broker = broker
        self._settings = NotarySettings(LOG, lambda: keys, lambda: signers, keep=1e9)
        self.folder = broker.folder / "notary"
        self.trust = Trust(tuple(keys), (Witness("n", signers[0].verifier),), (), "n")
        self.notary: Notary | None = None
        self.restart()

    def restart(self) -> None:
        """Another one, which knows what is on the disk and nothing else."""
        self.close()
        self.health = Health()
        self.notary = Notary(access(self._broker, NOTARY), self.folder, self._settings, self.health)

    def close(self) -> None:
        """Disconnect."""
        if self.notary:
            self.notary.close()

    async def look(self) -> bool:
        """Look once; whether all is well."""
        assert self.notary
        good, self.published = await asyncio.to_thread(self.notary.look)
        healthy, report = self.health.report()
        assert good is healthy, report
        return good

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest one, which is signed by whom it must be."""
        return self.trust.check(Note.parse((self.folder / "checkpoint").read_bytes()))

    @property
    def why(self) -> str:
        """What the health report says."""
        return str(self.health.report()[1]["status"])

    @property
    def alarms(self) -> list[tuple[str, Path]]:
        """Of which kind each is, and where."""
        found = sorted((self.folder / "alarms").glob("*/finding.json"))
        return [(json.loads(path.read_text())["what"], path.parent) for path in found]

    def located(self) -> Any:
        """Where the only alarm says that the difference is."""
        ((_, place),) = self.alarms
        found = json.loads((place / "finding.json").read_text())["located"]
        return (found["first"], found["last"]) if found else None


@pytest.fixture
async def writer(broker: Broker) -> Writer:
    """A writer of the broker's ledger."""
    return await Writer.of(broker)


@pytest.fixture
def office(broker: Broker, writer: Writer) -> Generator[Office]:
    """A notary that knows the writer's key."""
    made = Office(broker, writer.keys, (SIGNER,))
    yield made
    made.close()


def alarm(what: str) -> float | None:
    """What the metric says."""
    return REGISTRY.get_sample_value("tidegate_notary_alarm", {"what": what})


async def test_it_cosigns_what_the_broker_and_the_writer_agree_on(
    office: Office, writer: Writer
) -> None:
    """Again and again; its tiles are those of the records, over the edges of tiles too."""
    assert await office.look()
    assert not (office.folder / "checkpoint").exists()
    for count in (1, 1, 253, 1, 1, 300):
        await writer.append(count)
        await writer.sign()
        assert await office.look()

        found = tree(writer.sent)
        assert office.checkpoint == Checkpoint(LOG, found.size, found.root())
        assert tiles_hold(office.folder, writer.sent)
    partial = [path for path in office.folder.rglob("*") if path.parent.suffix == ".p"]
    assert {path.name for path in partial} <= {str(len(writer.sent) % 256), "2"}
    assert await office.look()
    assert not office.published


async def test_records_that_are_not_signed_yet_wait(office: Office, writer: Writer) -> None:
    """They are counted as behind."""
    await writer.append(3)
    await writer.sign()
    await writer.append(2)

    assert await office.look()

    assert office.checkpoint.size == 3
    assert office.health.report()[1]["behind"] == 2


@pytest.mark.parametrize("seq", [1, 4, 6])
async def test_a_record_that_is_altered_before_it_is_read_is_found(
    office: Office, writer: Writer, seq: int
) -> None:
    """Between the two heads around it; nothing of it is cosigned, and a restore heals it."""
    await writer.append(2)
    await writer.sign()
    if seq > 2:
        await office.look()
    await writer.append(3, stored={seq: record(seq, "forged")})
    await writer.sign()
    await writer.append(1, stored={seq: record(seq, "forged")})
    await writer.sign()
    if seq == 1:
        await writer.replace([record(1, "forged"), *writer.sent[1:]])

    assert not await office.look()
    assert not await office.look()

    expected = {1: (1, 2), 4: (3, 5), 6: (6, 6)}[seq]
    assert [what for what, _ in office.alarms] == ["root"]
    assert office.located() == expected
    place = office.alarms[0][1]
    assert (place / f"record-{seq}").read_bytes() == record(seq, "forged")
    assert (place / "head").exists()
    assert (office.folder / "checkpoint").exists() is (seq > 2)
    assert alarm("root") == 1

    await writer.replace(writer.sent)
    assert await office.look()
    assert alarm("root") == 0
    assert office.checkpoint.size == 6
    assert tiles_hold(office.folder, writer.sent)


async def test_a_record_that_is_altered_later_is_found_by_its_sequence(
    office: Office, writer: Writer
) -> None:
    """If the writer goes on over the forgery: its head does not go on from what was checked."""
    await writer.append(300)
    await writer.sign()
    await office.look()
    forged = [record(s, "forged") if s == 270 else record(s) for s in range(1, 306)]
    await writer.replace(forged)
    await writer.sign(forged)

    assert not await office.look()

    assert [what for what, _ in office.alarms] == ["root"]
    assert office.located() == (270, 270)
    place = office.alarms[0][1]
    assert (place / "record-270").read_bytes() == record(270, "forged")
    assert len((place / "tile-0-1").read_bytes()) == 44 * 32
    assert office.checkpoint == Checkpoint(LOG, 300, tree(writer.sent).root())


@pytest.mark.parametrize("case", ["at once", "overtaken", "started anew"])
async def test_two_histories_of_one_length_are_a_fork(
    office: Office, writer: Writer, case: str
) -> None:
    """Both notes are kept; also if a good head came after the bad one before anybody looked."""
    await writer.append(5)
    mine = await writer.sign()
    await office.look()
    other = await writer.sign([*writer.sent[:4], b"x"])
    if case == "overtaken":
        await writer.append(1)
        await writer.sign()
    elif case == "started anew":
        office.restart()

    assert not await office.look()

    ((what, place),) = office.alarms
    assert what == "fork"
    assert not await office.look()  # nothing takes it back
    assert (place / "head").read_bytes() == other
    assert (place / "checkpoint").read_bytes().startswith(mine.partition(b"\n\n")[0])
    assert office.checkpoint.size == 5


async def test_a_proof_of_two_histories_stands_until_somebody_starts_it_anew(
    office: Office, writer: Writer
) -> None:
    """However many good heads come; then it goes on from what it has checked."""
    await writer.append(5)
    await writer.sign()
    await office.look()
    await writer.sign([*writer.sent[:4], b"x"])
    await office.look()
    await writer.append(1)
    await writer.sign()
    for _ in range(2):
        assert not await office.look()
    assert office.checkpoint.size == 5
    assert len(office.alarms) == 1

    office.restart()
    assert await office.look()
    assert office.checkpoint.size == 6


async def test_what_was_signed_of_records_to_come_is_compared_when_they_come(
    office: Office, writer: Writer
) -> None:
    """Also if heads of fewer records came after it, and were good."""
    await writer.append(5)
    forged = [*writer.sent, *(record(s, "forged") for s in (6, 7, 8))]
    ahead = await writer.sign(forged)
    for _ in range(2):
        await writer.sign()
        assert await office.look()
        await writer.append(1)
    await writer.append(2)
    await writer.sign()

    assert not await office.look()

    ((what, place),) = office.alarms
    assert (what, office.located()) == ("root", (7, 8))
    assert (place / "head").read_bytes() == ahead


async def test_what_was_published_counts_though_the_key_is_gone(
    broker: Broker, office: Office, writer: Writer
) -> None:
    """Tiles that are made anew lead to the checkpoint, whoever knows the key that signed it."""
    await writer.append(5)
    await writer.sign()
    await office.look()
    shutil.rmtree(office.folder / "tile")
    writer.signers = (Signer.generate(LOG),)
    forged = [record(s, "forged") for s in range(1, 8)]
    await writer.replace(forged)
    await writer.sign(forged)
    later = Office(broker, writer.keys, (SIGNER,))

    assert not await later.look()

    later.close()
    assert "root" in [what for what, _ in later.alarms]
    assert office.checkpoint.root == tree(writer.sent).root()


async def test_two_new_histories_are_a_fork_too(office: Office, writer: Writer) -> None:
    """One of them is that of the ledger; it is not cosigned either while the other is about."""
    await writer.append(5)
    good = await writer.sign()
    bad = await writer.sign([*writer.sent[:4], b"x"])
    await writer.say(good)

    assert not await office.look()

    ((what, place),) = office.alarms
    assert what == "fork"
    assert {(place / name).read_bytes() for name in ("head", "head-other")} == {good, bad}
    assert not (office.folder / "checkpoint").exists()


async def test_a_writer_that_goes_back_must_say_the_same(office: Office, writer: Writer) -> None:
    """A head of the beginning is old news; one of another beginning is a rollback."""
    await writer.append(300)
    await writer.sign()
    await office.look()
    await writer.sign(writer.sent[:100])
    assert await office.look()
    assert office.checkpoint.size == 300

    await writer.sign([*writer.sent[:99], b"x"])
    assert not await office.look()

    assert [what for what, _ in office.alarms] == ["rollback"]
    assert office.checkpoint.size == 300
    await writer.append(1)
    await writer.sign()
    office.restart()  # it looks at what is newest and at what is longer than what it has checked
    assert await office.look()


@pytest.mark.parametrize("left", [0, 1, 299])
async def test_a_ledger_that_is_shorter_than_what_was_checked(
    office: Office, writer: Writer, left: int
) -> None:
    """Is an alarm, though the writer has said nothing new; the first missing record is named."""
    await writer.append(300)
    await writer.sign()
    await office.look()
    await writer.replace(writer.sent[:left])

    assert not await office.look()
    office.restart()
    assert not await office.look()

    assert [what for what, _ in office.alarms] == ["missing", "missing"]
    found = json.loads((office.alarms[0][1] / "finding.json").read_text())
    assert found["located"]["first"] == left + 1
    await writer.replace(writer.sent)
    assert await office.look()


@pytest.mark.parametrize("checked", [True, False])
async def test_a_record_that_is_missing_is_named(
    office: Office, writer: Writer, checked: bool
) -> None:
    """Whether it was checked before or not."""
    await writer.append(6)
    await writer.sign()
    if checked:
        await office.look()
        await writer.append(1)
        await writer.sign()
    await writer.lose(3 if not checked else 7)

    assert not await office.look()

    assert [what for what, _ in office.alarms] == ["missing"]
    assert office.located() == ((7, 7) if checked else (3, 3))


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "no note": lambda _: b"\x00\xff" * 100,
    "no checkpoint": lambda _: b"hello\n\n\xe2\x80\x94 x AAAAAAAA\n",
    "no signature": lambda note: note.partition(b"\n\n")[0] + b"\n",
    "another text": lambda note: note.replace(b"\n3\n", b"\n2\n"),
    "half": lambda note: note[: len(note) // 2],
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_among_the_heads_is_an_alarm_until_a_good_one_comes(
    office: Office, writer: Writer, name: str
) -> None:
    """Nothing is cosigned meanwhile, and nothing crashes."""
    await writer.append(3)
    good = await writer.sign()
    await writer.say(GARBAGE[name](good))

    assert not await office.look()
    assert [what for what, _ in office.alarms] == ["head"]
    assert not (office.folder / "checkpoint").exists()

    await writer.say(good)
    assert await office.look()
    assert office.checkpoint.size == 3


async def test_heads_of_somebody_else_are_not_taken(
    office: Office, writer: Writer, broker: Broker
) -> None:
    """Of another key, or of another log with the right key."""
    other = await Writer.of(broker)
    await writer.append(3)
    await other.sign(writer.sent)
    assert not await office.look()
    await writer.sign(log="other/0")
    assert not await office.look()

    assert [what for what, _ in office.alarms] == ["head", "head"]
    assert "of the log other/0" in office.why


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", record(1), b'{"log":"other/0","seq":2}'])
async def test_a_record_must_say_where_it_stands(
    office: Office, writer: Writer, payload: bytes
) -> None:
    """Even if the writer signed what it is."""
    await writer.append(1)
    writer.sent.append(payload)
    await writer.replace(writer.sent)
    await writer.sign()

    assert not await office.look()

    ((what, place),) = office.alarms
    assert (what, office.located()) == ("record", (2, 2))
    assert (place / "record-2").read_bytes() == payload


async def test_an_alarm_is_kept_once_and_not_without_end(office: Office, writer: Writer) -> None:
    """Looking again at the same adds nothing, and whoever makes noise fills no disk."""
    await writer.append(1)
    await writer.say(b"x")
    for _ in range(3):
        await office.look()
    assert len(office.alarms) == 1
    for number in range(105):
        await writer.say(b"%d" % number)
        await office.look()
    assert len(office.alarms) == 100


async def test_a_folder_that_is_lost_is_made_anew(office: Office, writer: Writer) -> None:
    """From the ledger, with the same root and the same tiles."""
    await writer.append(600)
    await writer.sign()
    await office.look()
    before = office.checkpoint
    files = {
        path.relative_to(office.folder): path.read_bytes()
        for path in (office.folder / "tile").rglob("*")
        if path.is_file()
    }
    shutil.rmtree(office.folder)

    office.restart()
    assert await office.look()

    assert office.checkpoint == before
    assert files == {
        path.relative_to(office.folder): path.read_bytes()
        for path in (office.folder / "tile").rglob("*")
        if path.is_file()
    }


async def test_tiles_that_do_not_hold_are_set_aside_and_made_anew(
    office: Office, writer: Writer
) -> None:
    """The ledger must lead to the checkpoint that was published."""
    await writer.append(600)
    await writer.sign()
    await office.look()
    tile = office.folder / "tile" / "0" / "001"
    good = tile.read_bytes()
    tile.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    checkpoint = office.folder / "tile" / "1" / "000.p" / "2"
    checkpoint.write_bytes(bytes(64))

    office.restart()
    await office.look()
    assert await office.look()

    assert tile.read_bytes() == good
    assert tiles_hold(office.folder, writer.sent)
    ((what, place),) = office.alarms
    assert what == "checkpoint"
    assert (place / "tile" / "0" / "001").read_bytes() != good


async def test_what_is_made_anew_must_lead_to_what_was_published(
    office: Office, writer: Writer
) -> None:
    """Whoever alters both the tiles and the ledger, and even has the writer's key, is found."""
    await writer.append(10)
    await writer.sign()
    await office.look()
    shutil.rmtree(office.folder / "tile")
    forged = [record(s, "forged") if s == 4 else record(s) for s in range(1, 13)]
    await writer.replace(forged)
    await writer.sign(forged)

    office.restart()
    assert not await office.look()

    assert "root" in [what for what, _ in office.alarms]
    assert office.checkpoint == Checkpoint(LOG, 10, tree(writer.sent).root())


async def test_a_checkpoint_that_cannot_be_read_stops_it(office: Office, writer: Writer) -> None:
    """It is its memory: without it nobody knows what was cosigned."""
    await writer.append(3)
    await writer.sign()
    await office.look()
    file = office.folder / "checkpoint"
    good = file.read_bytes()
    file.write_bytes(good[:20])

    office.restart()
    assert not await office.look()
    assert "checkpoint" in office.why

    file.write_bytes(good)
    assert await office.look()


async def test_new_keys_sign_beside_the_old_ones(
    broker: Broker, writer: Writer, office: Office
) -> None:
    """Of the writer and of the notary, without a new record."""
    await writer.append(3)
    await writer.sign()
    await office.look()
    newer = Signer.generate(LOG)
    writer.signers = (newer, *writer.signers)
    second = Signer.generate("test/notary", Algorithm.COSIGNATURE)
    office = Office(broker, writer.keys, (second, SIGNER))
    await writer.sign()

    assert await office.look()

    office.close()
    note = Note.parse((office.folder / "checkpoint").read_bytes())
    keys = [*writer.keys, SIGNER.verifier, second.verifier]
    assert all(key.check(note) is not None for key in keys)


async def test_another_stream_of_heads_is_no_obstacle(office: Office, writer: Writer) -> None:
    """Its sequences begin anew; what counts is what the heads say."""
    for count in (3, 1, 1):
        await writer.append(count)
        await writer.sign()
        await office.look()
    await writer.replace([], HEADS)
    assert await office.look()
    await writer.append(1)
    await writer.sign()

    assert await office.look()
    assert office.checkpoint.size == 6


async def test_a_broker_that_is_away_is_waited_for(
    broker: Broker, office: Office, writer: Writer
) -> None:
    """It says so, and goes on when the broker is back."""
    await writer.append(3)
    await writer.sign()
    await office.look()
    await broker.kill()
    assert not await office.look()
    assert "cannot connect" in office.why
    await broker.restart()

    assert await office.look()
    assert office.alarms == []


async def test_a_disk_that_takes_nothing_is_no_alarm(office: Office, writer: Writer) -> None:
    """Nothing is published that is not written; when there is room again it goes on."""
    await writer.append(300)
    await writer.sign()
    await office.look()
    await writer.append(300)
    await writer.sign()
    obstacle = office.folder / "checkpoint.part"
    obstacle.mkdir()
    for _ in range(2):
        assert not await office.look()
        assert office.checkpoint.size == 300
    obstacle.rmdir()
    (office.folder / "tile" / "0" / "001.part").mkdir()
    (office.folder / "tile" / "0" / "001").unlink()
    assert not await office.look()
    (office.folder / "tile" / "0" / "001.part").rmdir()

    assert await office.look()
    assert office.checkpoint.size == 600
    assert office.alarms == []
    assert tiles_hold(office.folder, writer.sent)


async def test_keys_that_cannot_be_read_are_no_alarm(
    broker: Broker, office: Office, writer: Writer
) -> None:
    """It says what is wrong, keeps its tiles, and goes on when they can be."""
    await writer.append(3)
    await writer.sign()

    def none() -> list[Verifier]:
        raise InvalidInput("trust: not there")

    settings = NotarySettings(LOG, none, lambda: [SIGNER])
    lost = Notary(access(broker, NOTARY), office.folder, settings, office.health)
    assert await asyncio.to_thread(lost.look) == (False, False)
    lost.close()
    assert office.why == "trust: not there"

    assert await office.look()
    assert office.alarms == []


async def test_signatures_of_strangers_are_not_passed_on(office: Office, writer: Writer) -> None:
    """What is published bears those that it vouches for."""
    await writer.append(3)
    good = Note.parse(await writer.sign())
    strangers = [Signer.generate(f"stranger-{n}") for n in range(60)]
    noisy = Note(good.text).signed(
        *(stranger.sign(good.text, 0) for stranger in strangers), *good.signatures
    )
    await writer.say(noisy.encode())

    assert await office.look()

    note = Note.parse((office.folder / "checkpoint").read_bytes())
    assert {signature.name for signature in note.signatures} == {LOG, "test/notary"}
