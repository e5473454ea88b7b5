"""The answer aimed at a wildcard, which names nobody and which the broker takes as a pattern."""

from __future__ import annotations

from .attack import NOW, OWN, PULL, Attack, Marks, event
from .attacks_replies import own_work
from .ground import Foe

PATTERNS = (">", "_INBOX_team_other.>", "*.*.*", "_INBOX_*.*.*", "_INBOX_team_other.*.*")


def _with(reply: str, how: str) -> Attack:
    async def run(foe: Foe) -> Marks:
        match how:
            case "publish":
                await foe.wire.publish(OWN, event(f"wildcard {reply}"), reply)
                return Marks(records=("allow permitted",))
            case "pull":
                await foe.ground.feed()
                await foe.wire.publish(PULL, NOW, reply)
            case _:
                await foe.ground.feed(2)
                await foe.wire.publish(await own_work(foe), b"+NXT " + NOW, reply)
        return Marks(own="its own work went nowhere")

    return Attack(f"{how}, answer to {reply}", run)


WILDCARDS = [_with(reply, how) for how in ("publish", "pull", "ack +NXT") for reply in PATTERNS]
EFFECTIVE = [
    attack
    for attack in WILDCARDS
    if attack.name
    in (
        "publish, answer to >",
        "publish, answer to _INBOX_team_other.>",
        "pull, answer to *.*.*",
        "ack +NXT, answer to _INBOX_team_other.*.*",
    )
]
"""Those that do something where attacker and victim are in one account."""
