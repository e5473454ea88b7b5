"""Publishing and subscribing where the attacker has no business."""

from __future__ import annotations

from .attack import OWN, Attack, Marks, event, publish, subscribe
from .ground import Foe

_BODIES = {
    "STREAM.CREATE": b'{"name": "%b", "subjects": ["in.>", "ledger.>"]}',
    "STREAM.UPDATE": b'{"name": "%b", "subjects": ["in.*.*"], "max_msgs_per_subject": 1}',
    "STREAM.MSG": b'{"seq": 1}',
    "DIRECT.GET": b'{"seq": 1}',
    "CONSUMER.CREATE": b'{"stream_name": "LEDGER_0", "config": {"ack_policy": "none"}}',
    "CONSUMER.PAUSE": b'{"pause_until": "2100-01-01T00:00:00Z"}',
    "CONSUMER.RESET": b'{"seq": 1}',
    "CONSUMER.MSG": b'{"batch": 100, "expires": 60000000000}',
}
"""What the API takes, so that each request would do something if it were let through."""

ANOTHER = {
    "another of the team": "in.team.other",
    "a publisher": "in.outside.source",
    "the coordinator": "in.tidegate.coordinator",
    "the operator": "in.tidegate.operator",
    "the gateway": "in.tidegate.gateway",
    "below the own subject": "in.team.agent.more",
    "above the own subject": "in.team",
    "a wildcard for the name": "in.team.*",
    "a wildcard for the team": "in.*.agent",
    "a full wildcard": "in.>",
    "everybody": "in.*.*",
    "capitals": "in.team.Agent",
    "capitals in front": "IN.team.agent",
    "a Cyrillic letter": "in.team.\u0430gent",
    "a zero-width space": "in.team.agent\u200b",
    "a soft hyphen": "in.team.ag\u00adent",
    "a full-width letter": "in.team.\uff41gent",
    "a right-to-left mark": "in.team.\u202eagent",
    "a full-width dot": "in.team\uff0eother",
    "an empty team": "in..agent",
    "an empty name": "in.team.",
    "an empty token in front": ".in.team.other",
    "a path": "in/team/other",
}

ELSEWHERE = {
    "a record": "ledger.0.allow.task.work.do",
    "a record of a result": "ledger.0.allow.result.tidegate.coordinator",
    "a record of another partition": "ledger.1.allow.task.work.do",
    "a receipt of another": "receipt.team.other",
    "an own receipt": "receipt.team.agent",
    "the tail": "tail.0",
    "the keys of another": "vault.team.other",
    "the keys of the coordinator": "vault.tidegate.coordinator",
    "a response of the broker": "_R_.aaaaaa.bbbbbb",
    "an inbox of anybody": "_INBOX.x",
    "an own inbox": "_INBOX_team_agent.x",
    "the coordinator's inbox": "_INBOX_tidegate_coordinator.x",
    "the gateway's inbox": "_INBOX_tidegate_gateway.x",
    "flow control": "$JS.FC.LEDGER_0.team_other.x",
    "an event of the broker": "$JS.EVENT.ADVISORY.API",
    "a bucket": "$KV.bucket.key",
    "an object": "$O.bucket.C.key",
    "an MQTT session": "$MQTT.sess.x",
    "a raft group": "$NRG.V.x",
    "a gateway of brokers": "_GR_.x.y.z",
    "a route of gateways": "$GNR.x",
}

SYSTEM = (
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.JSZ"),
    *("$SYS.REQ.SERVER.x.RELOAD", "$SYS.REQ.SERVER.x.KICK", "$SYS.REQ.ACCOUNT.BUS.CONNZ"),
    *("$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.DELETE"),
    *("$SYS.REQ.USER.INFO", "$SYS.REQ.USER.AUTH", "$SYS.ACCOUNT.BUS.CONNECT"),
    *("$SYS.SERVER.x.SHUTDOWN", "$SYS._INBOX.x"),
)

API = (
    *("INFO", "ACCOUNT.PURGE.BUS", "SERVER.REMOVE", "META.LEADER.STEPDOWN"),
    *("STREAM.LIST", "STREAM.NAMES", "STREAM.CREATE.MINE", "STREAM.RESTORE.MINE"),
    *("STREAM.TEMPLATE.CREATE.X", "STREAM.TEMPLATE.LIST", "STREAM.TEMPLATE.DELETE.X"),
    *(
        f"STREAM.{verb}.{stream}"
        for verb in ("CREATE", "UPDATE", "INFO", "PURGE", "DELETE", "RESTORE", "SNAPSHOT")
        for stream in ("INGRESS_0", "LEDGER_0")
    ),
    *("STREAM.MSG.GET.LEDGER_0", "STREAM.MSG.DELETE.LEDGER_0", "STREAM.MSG.DELETE.INGRESS_0"),
    *("STREAM.PEER.REMOVE.LEDGER_0", "STREAM.LEADER.STEPDOWN.LEDGER_0"),
    *("DIRECT.GET.LEDGER_0", "DIRECT.GET.LEDGER_0.ledger.0.allow.event.thing.happened"),
    "DIRECT.GET.INGRESS_0",
    *("CONSUMER.CREATE.LEDGER_0", "CONSUMER.CREATE.LEDGER_0.x", "CONSUMER.CREATE.LEDGER_0.x.>"),
    *("CONSUMER.CREATE.LEDGER_0.team_agent", "CONSUMER.CREATE.LEDGER_0.team_other"),
    *("CONSUMER.CREATE.INGRESS_0.x", "CONSUMER.DURABLE.CREATE.LEDGER_0.x"),
    *("CONSUMER.DURABLE.CREATE.LEDGER_0.team_agent", "CONSUMER.LIST.LEDGER_0"),
    *("CONSUMER.NAMES.LEDGER_0", "CONSUMER.INFO.LEDGER_0.team_agent"),
    *("CONSUMER.INFO.LEDGER_0.team_other", "CONSUMER.DELETE.LEDGER_0.team_agent"),
    *("CONSUMER.DELETE.LEDGER_0.team_other", "CONSUMER.PAUSE.LEDGER_0.team_other"),
    *("CONSUMER.RESET.LEDGER_0.team_other", "CONSUMER.RESET.LEDGER_0.team_agent"),
    *("CONSUMER.UNPIN.LEDGER_0.team_other", "CONSUMER.LEADER.STEPDOWN.LEDGER_0.team_other"),
    *("CONSUMER.MSG.NEXT.LEDGER_0.team_other", "CONSUMER.MSG.NEXT.LEDGER_0.*"),
    *("CONSUMER.MSG.NEXT.LEDGER_0.>", "CONSUMER.MSG.NEXT.INGRESS_0.gateway"),
    *("CONSUMER.MSG.NEXT.LEDGER_1.team_agent", "CONSUMER.MSG.NEXT.LEDGER_0.team_agent.x"),
)

SUBSCRIPTIONS = {
    **{
        f"subscribe to {subject}": (subject, "")
        for subject in (
            *(">", "*", "*.>", "*.*", "*.*.*", "*.team.agent", "in.>", "in.team.agent"),
            *("in.team.other", "in.*.*", "ledger.>", "ledger.0.allow.>", "tail.0", "tail.>"),
            *("ledger.0.allow.event.thing.happened", "_INBOX.>", "_INBOX_team_other.>"),
            *("_INBOX_tidegate_gateway.>", "receipt.>", "receipt.team.*", "receipt.*.agent"),
            *("receipt.team.other", "receipt.outside.source", "$SYS.>", "$SYS.ACCOUNT.>"),
            *("$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$JS.FC.>", "_R_.>", "_R_.*.*"),
            *("$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.*", "_INBOX_team_agent", "$NRG.>", "_GR_.>"),
        )
    },
    **{
        f"join queue {queue} of {subject}": (subject, queue)
        for subject, queue in (
            *((">", "q"), ("in.*.*", "q"), ("receipt.team.other", "receipt.team.agent")),
            *(("_INBOX_team_other.>", "_INBOX_team_agent.x"), ("_R_.>", "q"), ("ledger.>", ">")),
        )
    },
}


def _body(verb: str) -> bytes:
    kind = ".".join(verb.split(".")[:2])
    return _BODIES.get(kind, b"").replace(b"%b", verb.rpartition(".")[2].encode())


async def _publish_in_anothers_inbox(foe: Foe) -> Marks:
    subject = foe.ground.publisher_inbox
    await foe.wire.publish(subject, b'{"stream": "INGRESS_0", "seq": 1}')
    return Marks(refused=(subject,))


async def _deliver_to_a_worker(foe: Foe) -> Marks:
    subject = foe.ground.worker_inbox
    await foe.wire.publish(subject, event("delivered"), foe.ground.held_ack)
    return Marks(refused=(subject,))


async def _listen_in_anothers_inbox(foe: Foe) -> Marks:
    subject = foe.ground.worker_inbox
    await foe.wire.subscribe(subject)
    return Marks(refused=(subject,))


async def _subscribe_below_the_own_inbox(foe: Foe) -> Marks:
    await foe.wire.subscribe("_INBOX_team_agent.>", "77")
    await foe.wire.publish(OWN, event("twice-heard"), "_INBOX_team_agent.x")
    return Marks(records=("allow permitted",))


PUBLISHING = [
    *(Attack(f"as {name}", publish(subject, event("as"))) for name, subject in ANOTHER.items()),
    *(Attack(f"on {name}", publish(subject, event("on"))) for name, subject in ELSEWHERE.items()),
    *(Attack(f"ask {subject}", publish(subject)) for subject in SYSTEM),
    *(
        Attack(f"ask {verb}", publish(f"$JS.API.{verb}", _body(verb), "_INBOX_team_agent.x"))
        for verb in API
    ),
    Attack("on the exact inbox of a publisher", _publish_in_anothers_inbox),
    Attack("on the exact inbox of a worker", _deliver_to_a_worker),
]
SUBSCRIBING = [
    *(Attack(name, subscribe(*what)) for name, what in SUBSCRIPTIONS.items()),
    Attack("subscribe to the exact inbox of a worker", _listen_in_anothers_inbox),
    Attack("subscribe twice to the own inbox", _subscribe_below_the_own_inbox),
]
