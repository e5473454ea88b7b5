"""The ledger explorer: records by what they say, and one record whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.audit import moment
from tidegate.index import Filter, LedgerIndex, Row
from tidegate.proving import prove
from tidegate.runs import spans
from tidegate.timeline import timeline_of
from tidegate.timeline_page import LEGEND
from tidegate.timeline_picture import MOST, Picture
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_policy.replay import Explanation, explain
from tidegate_policy.signing.checkpoints import Checkpoints
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .here import Here, console_of
from .message import shown
from .pages import error_page, render
from .proof import standing

PAGE = 50
_NEIGHBOURS = 25
_GAP = 40
_FIELDS = ("by", "to", "kind", "verdict", "correlation", "id", "since", "until")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What stands around a record, as far as the index has it.

    Attributes:
        cause: what it follows from.
        first: of a duplicate, and of the end of a wait, what came first.
        following: duplicates of it, and how its wait ended.
        caused: its answers, and what else followed from it.
    """

    cause: Row | None = None
    first: Row | None = None
    following: tuple[Row, ...] = ()
    caused: tuple[Row, ...] = ()


def wanted(given: Mapping[str, str], now: int) -> Filter:
    """What somebody looks for, from the fields of the form.

    Args:
        given: the fields; those that are empty, or not known, do not count.
        now: ns since 1970, for `2h`.

    Raises:
        InvalidInput: one of them is wrong; says which.
    """
    text = {name: value.strip() for name in _FIELDS if (value := given.get(name, "")).strip()}
    try:
        kind = Kind(text["kind"]) if "kind" in text else None
        verdict = Verdict(text["verdict"]) if "verdict" in text else None
    except ValueError as error:
        raise InvalidInput(f"{error}; choose one of the list") from None
    return Filter(
        text.get("by"),
        text.get("to"),
        kind,
        verdict,
        text.get("correlation"),
        text.get("id"),
        moment(text["since"], now) if "since" in text else None,
        moment(text["until"], now) if "until" in text else None,
    )


async def _search(request: Request) -> Response:
    here, given = console_of(request), dict(request.query_params)
    fields = {name: given.get(name, "").strip() for name in _FIELDS}
    try:
        before = _number(given["before"]) if given.get("before") else None
        page = here.index.search(wanted(fields, time.time_ns()), before, PAGE)
    except InvalidInput as error:
        return _listed(request, 400, fields, problem=str(error))
    return _listed(request, 200, fields, rows=page.rows, reached=page.reached, before=before)


def _listed(request: Request, status: int, fields: dict[str, str], **values: Any) -> Response:
    index = console_of(request).index
    kept = {name: value for name, value in fields.items() if value}
    return render(
        request,
        "ledger.html",
        status,
        **{
            "fields": fields,
            "filtered": bool(kept),
            "query": urlencode(kept),
            "kinds": list(Kind),
            "verdicts": list(Verdict),
            "senders": index.names("by"),
            "destinations": index.names("to"),
            "length": index.seq(),
            "rows": [],
            "reached": 1,
            "before": None,
            "problem": "",
            **values,
        },
    )


async def _record(request: Request) -> Response:
    here, seq = console_of(request), request.path_params["seq"]
    stored = await here.ledger.one(seq)
    if stored is None:
        return error_page(request, 404, f"There is no record {seq}", "The ledger is not so long.")
    record = stored.record()
    explained, unexplained = _explained(here, record)
    proven = await asyncio.to_thread(standing, here.project.state, seq, stored.payload)
    return render(
        request,
        "record.html",
        record=record,
        explained=explained,
        unexplained=unexplained,
        detail=str(record.why.facts.get("detail", "")),
        message=shown(record),
        near=_neighbours(here.index, seq),
        proof=proven,
        newer=seq < max(here.index.seq(), here.runs.seq),
    )


async def _raw(request: Request) -> Response:
    """The bytes of a record: what proofs are of."""
    here, seq = console_of(request), request.path_params["seq"]
    stored = await here.ledger.one(seq)
    if stored is None:
        return error_page(request, 404, f"There is no record {seq}", "The ledger is not so long.")
    return _file(stored.payload, "application/json", f"{seq}.json")


async def _proof(request: Request) -> Response:
    """The proof of a record, for `tidegate ledger check-proof`."""
    state, seq = console_of(request).project.state, request.path_params["seq"]
    found = Checkpoints(state.notary, 0.0).read()
    if found is None:
        raise InvalidInput("the notary has published no checkpoint yet")
    proven = await asyncio.to_thread(prove, state.notary, found[0], seq)
    return _file(proven.proof.encode(), "text/plain; charset=utf-8", f"{seq}.tlog-proof")


def _file(data: bytes, kind: str, name: str) -> Response:
    return Response(
        data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _explained(here: Here, record: Record) -> tuple[Explanation | None, str]:
    """Why the record says what it says; or why that cannot be told."""
    try:
        bundle = here.bundles.bundle(record.why.bundle)
        _, in_force = here.bundles.shelf.in_force(record.seq)
    except InvalidInput as error:
        return None, str(error)
    return explain(record, bundle, in_force), ""


def _neighbours(index: LedgerIndex, seq: int) -> Neighbours:
    row = index.row(seq)
    if row is None:
        return Neighbours()
    return Neighbours(
        index.cause(row),
        index.row(row.first) if row.first else None,
        tuple(index.following(seq)[:_NEIGHBOURS]),
        tuple(index.caused(row)[:_NEIGHBOURS]),
    )


async def _story(request: Request) -> Response:
    here, correlation = console_of(request), request.query_params.get("of", "").strip()
    records = await story(here.index, here.ledger, correlation)
    if not records:
        return error_page(
            request,
            404,
            "Nothing has this correlation id",
            f"{correlation[:300]!r}: a record is found a moment after it was written.",
        )
    lines = timeline_of(records, correlation)
    drawn = Picture(lines[:MOST]) if lines else None
    return render(
        request,
        "story.html",
        correlation=correlation,
        lines=lines,
        picture=drawn,
        legend=LEGEND,
        most=MOST,
    )


async def story(index: LedgerIndex, ledger: LedgerReader, correlation: str) -> list[Record]:
    """The records of a correlation id, as the ledger has them; the first 2,000.

    Raises:
        LedgerGap, Unavailable: they cannot be read.
    """
    seqs = [row.seq for row in index.story(correlation, MOST)]
    wanted_, found = set(seqs), list[StoredRecord]()
    for first, last in spans(seqs, _GAP):
        async for stored in ledger.read(first, batch=min(last - first + 1, 500)):
            if stored.seq in wanted_:
                found.append(stored)
            if stored.seq >= last:
                break
    return [stored.record() for stored in found]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidInput(f"{text[:40]!r} is no record")
    return int(text)


routes = [
    Route("/ledger", _search),
    Route("/ledger/story", _story),
    Route("/ledger/{seq:seq}", _record),
    Route("/ledger/{seq:seq}/raw", _raw),
    Route("/ledger/{seq:seq}/proof", _proof),
]
