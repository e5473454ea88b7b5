"""A record as an event for SIEMs: OCSF 1.8, class API Activity (6003).

What was said stays in the ledger: an event tells who wanted what and what became of it, and by its
hash which record says so. OCSF knows calls of an API as create, read, update or delete; messages
are none of these, so their activity is 99 (Other) and named by their kind.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from typing import Any

from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import BYPASSED

from .reading import Leaf

VERSION = "1.8.0"
PROFILES = ("security_control", "trace")

_CLASS = 6003
_OTHER = 99
_OUTCOMES = {
    # status_id, action_id, disposition_id, severity_id
    Verdict.ALLOW: (1, 1, 1, 1),  # success, allowed, allowed, informational
    Verdict.DENY: (2, 2, 2, 2),  # failure, denied, blocked, low
    Verdict.HOLD: (99, 99, 14, 1),  # other, other, delayed, informational
    Verdict.REJECT: (2, 2, 25, 2),  # failure, denied, rejected, low
    Verdict.DUPLICATE: (99, 3, 16, 1),  # other, observed, no action, informational
}
_CRITICAL = 5
_TRACE = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-.*")
_STATUS = {1: "Success", 2: "Failure"}
_ACTION = {1: "Allowed", 2: "Denied", 3: "Observed"}


def event(leaf: Leaf) -> dict[str, Any]:
    """The event of a record, as JSON values.

    Raises:
        LedgerError: it is not of a gateway.
    """
    record, message = leaf.record, leaf.message
    status, action, disposition, severity = _OUTCOMES[record.verdict]
    if record.to == BYPASSED and record.verdict is Verdict.ALLOW:
        severity = _CRITICAL
    made: dict[str, Any] = {
        "category_uid": _CLASS // 1000,
        "class_uid": _CLASS,
        "activity_id": _OTHER,
        "activity_name": record.kind.value,
        "type_uid": _CLASS * 100 + _OTHER,
        "severity_id": severity,
        "time": parse_rfc3339(record.time) // 1_000_000,
        "message": f"{record.verdict}: {record.kind} of {record.by} to {record.to}",
        "status_id": status,
        "status": _STATUS.get(status, record.verdict.value),
        "status_code": record.why.reason,
        "action_id": action,
        "action": _ACTION.get(action, record.verdict.value),
        "disposition_id": disposition,
        "metadata": {
            "version": VERSION,
            "product": _product(),
            "profiles": list(PROFILES),
            "uid": f"{record.log}/{record.seq}",
            "sequence": record.seq,
            "log_name": record.log,
            "original_time": record.time,
        },
        "actor": {
            "user": {"name": record.by, "uid": record.by},
            "authorizations": _authorizations(record),
        },
        "api": {"operation": record.to},
        "src_endpoint": {"name": record.by},
        "resources": [{"name": record.to, "type": record.kind.value}],
        "raw_data_hash": {
            "algorithm_id": _OTHER,
            "algorithm": "RFC 9162 leaf: SHA-256 of 0x00 and the record",
            "value": leaf.hash.hex(),
        },
        "raw_data_size": len(leaf.payload),
    }
    unmapped: dict[str, Any] = {"in_seq": record.ingress.seq, "in_n": record.ingress.n}
    if detail := record.why.facts.get("detail"):
        made["status_detail"] = str(detail)
    if record.why.obligations:
        unmapped["obligations"] = list(record.why.obligations)
    if record.first is not None:
        unmapped["first"] = record.first
    if message:
        made["api"]["request"] = {"uid": message.id}
        if message.correlationid:
            made["metadata"]["correlation_uid"] = message.correlationid
        if trace := _TRACE.fullmatch(message.traceparent or ""):
            made["trace"] = {"uid": trace[1]}
        for name in _ATTRIBUTES:
            if (value := getattr(message, name)) is not None:
                unmapped[name] = value
    made["unmapped"] = unmapped
    return made


_ATTRIBUTES = (
    "type",
    "source",
    "causationid",
    "causationsource",
    "answers",
    "runid",
    "stepid",
    "attempt",
    "onbehalfof",
    "dataclassification",
)


def _authorizations(record: Record) -> list[dict[str, Any]]:
    """A decision by each policy that decided; one of the gateway's own where none did."""
    bundle = record.why.bundle
    named = [{"uid": policy, "version": bundle} for policy in record.why.policies]
    return [
        {"decision": record.verdict.value, "policy": policy}
        for policy in named or [{"type": record.why.reason, "version": bundle}]
    ]


@cache
def _product() -> dict[str, str]:
    return {"name": "Tidegate", "vendor_name": "Tidegate", "version": version("tidegate")}
