"""The words that agents, coordinator and operators say to each other over the bus.

A control message goes to the command it is (`kind` control, `to` the command); so do events.
A result goes to whoever sent the task; its `type` says how the task ended. It names the task by
`causationid`, its id, and by `answers`, the sequence of its record. Only the agent that provides
the capability may send it, whatever policy permits, and no operator in its stead. So too the dead
letter of an event, from an agent that subscribes to it; this names the event's source besides, in
`causationsource`, and no task is taken to be answered by it.
"""

from __future__ import annotations

import hashlib

from .subjects import Principal

COORDINATOR = Principal("tidegate", "coordinator")
"""Who runs blueprints: the only sender of tasks of a run, and of the commands marked below."""

OPERATOR = Principal("tidegate", "operator")
"""Who sends what people type at the command line."""

EDGE = Principal("tidegate", "edge")
CONSOLE = Principal("tidegate", "console")
"""Who read the ledger for those that come in over HTTP. They submit nothing: what somebody says
there is said by that somebody."""

IDENTITY_REGISTER = "identity.register"
"""Control. Data: `identity.Registration`. From here on the principal takes part as it says."""

IDENTITY_REVOKE = "identity.revoke"
"""Control. Data: `identity.Revocation`. From here on the principal does not take part."""

POLICY_PROPOSE = "policy.propose"
POLICY_ACTIVATE = "policy.activate"
APPROVAL_GRANT = "approval.grant"
APPROVAL_REFUSE = "approval.refuse"
CONTROL_PAUSE = "control.pause"
CONTROL_RESUME = "control.resume"
CONTROL_QUARANTINE = "control.quarantine"
CONTROL_KILL = "control.kill"
CONTROL_RELEASE = "control.release"
CLOCK_TICK = "clock.tick"
PRIVACY_ERASE = "privacy.erase"
PRIVACY_HOLD = "privacy.hold"
PRIVACY_RELEASE = "privacy.release"
PRIVACY_EXPIRE = "privacy.expire"
"""Controls. Their data, and what they do: see `governance`."""

EVIDENCE_KEYS = "evidence.keys"
"""Control. Data: `evidence.EvidenceKeys`. Nothing follows; auditors find the keys by it."""

AUDIT_EXPORT = "audit.export"
AUDIT_REPLAY = "audit.replay"
"""Controls. Their data: see `audit`. Nothing follows from them."""

GATEWAY = Principal("tidegate", "gateway")
"""Who decides and records; it says itself only that time has passed,
and with it the retention of personal data."""

BLUEPRINT_REGISTER = "blueprint.register"
"""Control, by the coordinator. Data: `{"document": Blueprint.canonical}`."""

RUN_START = "run.start"
"""Control. Data: `{"blueprint": name, "input": any JSON}`."""

RUN_CANCEL = "run.cancel"
"""Control. Data: `{"run": run id}`, and `reason` if somebody gave one."""

RUN_TIMEOUT = "run.timeout"
"""Control, by the coordinator. No data: `runid`, `stepid`, `attempt`, and the index in `subject`.

The time of an attempt is over. It counts only where no result came before it in the ledger.
"""

RUN_FINISHED = "run.finished"
"""Event, by the coordinator, with `runid`. Data: `run`, `blueprint`, `status`, `output`, `error`.
"""

RESULT = "tidegate.result"
"""Type of a result that a handler gave. Data: what it returned.

Carries the `runid`, `stepid`, `attempt` and `subject` of its task.
"""

DEADLETTER = "tidegate.deadletter"
"""Type of a result that nobody could give. Data: `{"error": sentence, …}`.

The worker has used up its own attempts. Carries the same attributes as a result.
"""

PROBED = "bus.probed"
"""Event, by the probe. Data: `nonce`, and `attempts`: `{"name", "through"}` of the ways past the
gateway that it has just tried; `through` is true, false, or null where nothing is proven.
"""

BYPASSED = "bus.bypassed"
"""Event, by the probe: an alarm. Data: `nonce`, and `attempts`: names of those that went through.
"""


def run_id(digest: str, by: str, source: str, envelope_id: str) -> str:
    """The id of the run of a blueprint that somebody's envelope started.

    The tasks of a run bear it as `runid`, and that envelope's id and source as `causationid` and
    `causationsource`: so whether somebody started a run can be told from any of its tasks.
    """
    text = f"{digest}\n{by}\n{source}\n{envelope_id}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
