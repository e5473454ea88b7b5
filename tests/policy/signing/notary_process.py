"""A notary in a process of its own, to be killed.

python notary_process.py <url> <seed> <folder> <key of the writer> <its own key>
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.bulk import Access
from tidegate_bus.telemetry import Health, configure_logging
from tidegate_evidence.note import Signer, Verifier
from tidegate_policy.signing.notary import Notary, NotarySettings

if __name__ == "__main__":
    configure_logging("notary")
    url, seed, folder, writer, own = sys.argv[1:]
    keys, signers = [Verifier.parse(writer)], [Signer.parse(own)]
    settings = NotarySettings("test/0", lambda: keys, lambda: signers)
    asyncio.run(Notary(Access(url, NOTARY, seed), Path(folder), settings, Health()).run())
