"""Records of a ledger, made by hand, one after the other."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.replay.script import Script
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Ingress, Reason, Record, Why, encode_record
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import RESULT

BEGIN = 1_800_000_000_000_000_000
ASKER = "shop.asker"


def manifest(name: str, *, tasks: tuple[str, ...] = (), events: tuple[str, ...] = ()) -> Manifest:
    """An agent of the team `work`."""
    return Manifest(
        team="work",
        name=name,
        version="1",
        owner="x@tidegate.invalid",
        run="a:b",
        capabilities=tasks,
        subscribes=events,
    )


class Ledger:
    """Makes records, a second apart, and gives them to a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seq = 0

    def add(
        self,
        by: str,
        type: str,
        data: Any = None,
        *,
        verdict: Verdict = Verdict.ALLOW,
        obligations: tuple[str, ...] = (),
        n: int = 0,
        **attributes: Any,
    ) -> Envelope:
        """One more record."""
        self.seq += 1
        message = Envelope.new(type, data, **attributes)
        kind, to = message.destination()
        time = rfc3339(BEGIN + self.seq * 10**9)
        record = Record(
            v=1,
            log="test/0",
            seq=self.seq,
            time=time,
            epoch=1,
            ingress=Ingress(self.seq, n, time),
            by=by,
            kind=kind,
            to=to,
            verdict=verdict,
            why=Why((), Reason.PERMITTED, "sha256:0", obligations),
            envelope=msgspec.Raw(encode(message)),
        )
        self.script.add(record, encode_record(record))
        return message

    def task(self, to: str, data: Any = None, **more: Any) -> Envelope:
        """Somebody asks."""
        return self.add(ASKER, to, data, kind="task", to=to, **more)

    def answer(self, by: str, task: Envelope, data: Any = None, **more: Any) -> Envelope:
        """Somebody answers."""
        more.setdefault("type", RESULT)
        return self.add(by, more.pop("type"), data, **answering(task), **more)


def answering(task: Envelope) -> dict[str, Any]:
    """The attributes of an answer."""
    return {
        "kind": "result",
        "to": ASKER,
        "causationid": task.id,
        "correlationid": task.correlationid or task.id,
    }
