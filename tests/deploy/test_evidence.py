"""The evidence of a running stack: its keys, its notary, and what is said of them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from support import OPERATOR, until
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.evidence import announced
from tidegate.evidence_keys import in_use, signing_keys, write_trust
from tidegate.evidence_report import Line, evidence_lines
from tidegate.processes import gateway
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import NOTARY
from tidegate_evidence.note import Algorithm, Note, Signer, Verifier
from tidegate_evidence.trust import Trust
from tidegate_policy.signing.heads import HEAD
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, VerificationError
from tidegate_schemas.evidence import EvidenceKeys, KeyRole
from tidegate_schemas.vocabulary import EVIDENCE_KEYS

from .test_cli import bytecode


@pytest.fixture(autouse=True)
def _bytecode(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode(pytestconfig)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project that `tidegate init` makes."""
    init(tmp_path / "hello")
    return tmp_path / "hello"


def covered(stack: Stack) -> int:
    """How many records the newest checkpoint covers that the trust file is content with."""
    state = stack.project.state
    try:
        note = Note.parse((state.notary / "checkpoint").read_bytes())
        return Trust.parse(state.trust.read_bytes()).check(note).size
    except (OSError, VerificationError):
        return 0


async def lines(stack: Stack) -> dict[str, Line]:
    """What doctor says, as if the ledger had been at rest for long."""
    async with await stack.connect(NOTARY) as connection, await bus(stack) as operator:
        last = await operator.ledger.last()
        assert last
        found = await evidence_lines(stack.project, connection, last.seq, 0)
    return {line.check: line for line in found}


async def bus(stack: Stack) -> Bus:
    """The bus, as the operator."""
    return await Bus.of_project(str(OPERATOR), stack.project.root)


@pytest.mark.timeout(180)
async def test_a_rotated_key_is_announced_and_takes_over(project: Path) -> None:
    """Writer and notary sign with both keys; the old ones go when the new ones have signed.

    Nothing is started anew for it, and at no time the trust file refuses what is published.
    """
    async with Stack(load_project(project)) as stack:
        keys, state = signing_keys(stack.project), stack.project.state
        async with await bus(stack) as operator:
            assert await announced(operator.ledger) == in_use(stack.project)
            last = await operator.ledger.last()
            assert last
            await until(lambda seq=last.seq: covered(stack) >= seq)
            pids = [child.pid for child in stack.children]
            old = [keys.signers(role)[0] for role in (KeyRole.WRITER, KeyRole.NOTARY)]
            for role in (KeyRole.WRITER, KeyRole.NOTARY):
                keys.rotate(role, 1.0, time.time_ns())
            write_trust(stack.project)
            await until(lambda: keys.signers(KeyRole.WRITER)[-1] != old[0], seconds=30)
            await until(lambda: keys.signers(KeyRole.NOTARY)[-1] != old[1], seconds=30)

            async def told() -> bool:
                return await announced(operator.ledger) == in_use(stack.project)

            await until(told)
            said = [
                [Verifier.parse(key.key) for key in message.payload(EvidenceKeys).keys]
                async for record in operator.records()
                if record.to == EVIDENCE_KEYS and (message := record.message())
            ]
            assert len(said) >= 3
            assert said[0] != said[-1]
            last = await operator.ledger.last()
            assert last
            await until(lambda seq=last.seq: covered(stack) >= seq)
        note = Note.parse((state.notary / "checkpoint").read_bytes())
        assert all(signer.verifier.check(note) is None for signer in old)
        assert [child.pid for child in stack.children] == pids
        assert all(line.ok for line in (await lines(stack)).values())

        stack.children[-1].hurry()
        (state.notary / "alarms" / "20260101T000000Z-root").mkdir(parents=True)
        found = await lines(stack)
        assert found["evidence writer"].ok
        assert not found["evidence notary"].ok
        assert "1 alarms in" in found["evidence notary"].detail


async def test_policies_that_do_not_permit_it_stop_nothing(project: Path) -> None:
    """It is said on the stack's line; the evidence is signed all the same."""
    main = project / "policy" / "main.cedar"
    main.write_text(main.read_text().replace('  context.to like "evidence.*" ||\n', ""))
    said: list[str] = []
    stack = Stack(load_project(project), on_line=lambda name, line: said.append(f"{name} {line}"))
    async with stack, await bus(stack) as operator:
        assert await announced(operator.ledger) is None
        assert any("stack the keys that sign evidence are not in the ledger" in one for one in said)
        await until(lambda: covered(stack) > 0)


async def test_doctor_says_what_is_not_signed(project: Path) -> None:
    """A checkpoint that the trust file is not content with, a witness that is away."""
    file = project / "tidegate.yaml"
    key = str(Signer.generate("w.example", Algorithm.COSIGNATURE).verifier)
    file.write_text(
        file.read_text() + f"evidence: {{witnesses: [{{key: {key}, url: 'http://127.0.0.1:1'}}]}}\n"
    )
    async with Stack(load_project(project)) as stack:
        path = stack.project.state.notary / "checkpoint"
        await until(path.exists)

        async def settled() -> bool:
            return (await lines(stack))["evidence writer"].ok

        await until(settled)
        found = await lines(stack)

    detail = found["evidence notary"].detail
    assert "is not cosigned by the quorum everybody; missing is w.example+" in detail
    assert not found["evidence notary"].ok
    assert not found["evidence witness w.example"].ok


async def test_a_stack_ends_where_the_ledger_is_not_the_one_that_was_signed(project: Path) -> None:
    """An old copy of the broker's store was put back: trying again would not help, and is not done.

    Until somebody looks, `doctor` has the same to say.
    """
    async with Stack(load_project(project), agents=()) as stack:
        state = stack.project.state
    copy = state.folder / "copy"
    shutil.copytree(state.store, copy)
    async with Stack(load_project(project), agents=()) as stack, await bus(stack) as operator:
        await operator.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
        last = await operator.ledger.last()
        await until(lambda: last is not None and covered(stack) >= last.seq)
    shutil.rmtree(state.store)
    shutil.copytree(copy, state.store)

    stack = Stack(load_project(project), agents=())
    with pytest.raises(VerificationError, match="gateway will not go on: "):
        await stack.start()
    try:
        found = await lines(stack)
    finally:
        await stack.stop()
    assert not found["evidence notary"].ok
    assert "are missing" in found["evidence notary"].detail


async def test_a_vault_that_is_lost_is_not_made_anew(project: Path) -> None:
    """An empty one would look like everybody's data erased. Whoever means it makes the file."""
    found = load_project(project)
    found.state.writer.mkdir(parents=True)
    (found.state.writer / HEAD).write_text("{}")

    with pytest.raises(InvalidInput, match=r"vault.db is gone, .*put it back"):
        await gateway(found)
    found.state.vault.touch()
    with pytest.raises(InvalidInput, match="no stack runs"):  # so far it got
        await gateway(found)
