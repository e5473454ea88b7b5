"""An answer aimed at a wildcard. KNOWN DEFECT: it cuts the others off from their deliveries.

Each request across accounts leaves a note at the broker of where its answer goes. When one is
answered, nats-server removes the notes of all requests in the account whose reply the *reply of
this one* matches, and takes wildcards there as such (`Account.checkForReverseEntries`, 2.15.1).
So one submission with the reply `>` ends every pull that waits, of every worker: the broker counts
the next message of each as delivered and drops it on the way. It comes again when the lease is
over; until the worker notices the silence of its pull it hears nothing.

No message is lost for good, and none goes to whom it is not for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import AGENT
from tidegate_bus.keyring import Keyring

from .attack import NOW, OWN, PULL, Attack, Marks, event
from .attacks_replies import own_work
from .ground import Alter, Foe, ground
from .judge import Breach, Judge, Kind


def _with(reply: str, how: str) -> Attack:
    async def run(foe: Foe) -> Marks:
        match how:
            case "publish":
                await foe.wire.publish(OWN, event("wildcard"), reply)
                return Marks(records=("allow permitted",))
            case "pull":
                await foe.ground.feed()
                await foe.wire.publish(PULL, NOW, reply)
            case _:
                await foe.ground.feed(2)
                await foe.wire.publish(await own_work(foe), b"+NXT " + NOW, reply)
        return Marks(own="its own work went nowhere")

    return Attack(f"{how}, answer to {reply}", run)


ATTACKS = [
    _with(">", "publish"),
    _with("_INBOX_team_other.>", "publish"),
    _with("*.*.*", "pull"),
    _with("_INBOX_team_other.*.*", "ack +NXT"),
]


async def _breaches(folder: Path, attack: Attack, alter: Alter | None = None) -> list[Breach]:
    async with ground(folder, alter=alter) as made:
        made.patience = 1.0
        judge = Judge(made)
        await judge.start()
        return await judge.breaches(attack)


@pytest.mark.xfail(strict=True, reason="nats-server 2.15.1 takes a reply as a pattern; see above")
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_an_answer_to_a_wildcard_disturbs_nobody(tmp_path: Path, attack: Attack) -> None:
    """Others go on as if nothing had happened."""
    assert await _breaches(tmp_path, attack) == []


async def test_an_answer_to_a_wildcard_forges_and_reveals_nothing(tmp_path: Path) -> None:
    """What it does is deny service: nothing is written, heard or settled under a false name."""
    found = await _breaches(tmp_path, ATTACKS[0])

    assert {breach.kind for breach in found} <= {Kind.LOST, Kind.SETTLED}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_in_an_account_of_its_own_it_disturbs_nobody(tmp_path: Path, attack: Attack) -> None:
    """The notes are kept by account: the way out, as long as the broker does what it does."""

    def apart(document: dict[str, Any]) -> None:
        accounts, key = document["accounts"], Keyring(tmp_path / "keys").ensure(AGENT)
        agents = accounts["AGENTS"]
        alone = [user for user in agents["users"] if user["nkey"] == key]
        agents["users"] = [user for user in agents["users"] if user["nkey"] != key]
        accounts["ALONE"] = {"users": alone, "imports": agents["imports"]}
        for export in accounts["BUS"]["exports"]:
            export["accounts"].append("ALONE")

    assert await _breaches(tmp_path, attack, apart) == []
