"""A gateway in a process of its own, to be killed.

    python gateway_process.py <url> <seed> <folder of the bundle> <file of the roster>

It begins when a line comes on its standard input, so that loading Python takes no time then.
Ends with status 3 when the ledger is not what it should be, which another start may mend: what a
killed gateway had sent may be stored after its successor has looked.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from tidegate_bus.connection import connect
from tidegate_bus.telemetry import Health, configure_logging
from tidegate_evidence.note import Algorithm, Signer
from tidegate_policy.bundle import Snapshot, load_bundle
from tidegate_policy.decide import Limits
from tidegate_policy.gateway import Gateway, GatewaySettings
from tidegate_policy.personal.vault import Vault
from tidegate_policy.roster import Roster
from tidegate_policy.signing.heads import Heads
from tidegate_schemas.errors import LedgerError
from tidegate_schemas.identity import Registration
from tidegate_schemas.vocabulary import GATEWAY


async def main(url: str, seed: str, snapshot: Snapshot, vault: Path) -> None:
    """Work until killed."""
    if not sys.stdin.readline():
        return  # whoever would have begun is gone
    settings = GatewaySettings("test/0", Limits(256 * 1024), 600.0, 100_000)
    async with await connect(url, GATEWAY, seed) as connection:
        writer = Signer("test/0", Algorithm.NOTE, bytes(32))
        signed = Heads(Path(sys.argv[3]).parent / "writer", "test/0", lambda: [writer])
        with Vault.open(vault) as keys:
            await Gateway(connection, snapshot, settings, signed, Health(), keys).run()


if __name__ == "__main__":
    configure_logging("gateway")
    try:
        members = msgspec.json.decode(Path(sys.argv[4]).read_bytes(), type=list[Registration])
        snapshot = load_bundle(Path(sys.argv[3])).snapshot(Roster.of(members))
        vault = Path(sys.argv[3]).with_name("vault.db")
        asyncio.run(main(sys.argv[1], sys.argv[2], snapshot, vault))
    except LedgerError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
