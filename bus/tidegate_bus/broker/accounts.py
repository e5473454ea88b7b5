"""The broker's configuration: accounts, users, permissions, exports and imports.

Streams live in the account BUS, everybody who submits or receives in another one. In one shared
account a sender could aim the reply of a publish at a stream and write past the gateway: the broker
checks what a client publishes on, not where it asks for the answer. Across accounts such a reply
stays in the sender's account and reaches no stream.

And everybody has an account of their own, `<team>_<name>`, with nothing in it but themselves and
the imports that are theirs. So an answer can be aimed at nobody else's inbox either. (In one
account for all, a publish with the reply `>` makes nats-server 2.15 forget where all others of the
account wait for answers, and their deliveries are dropped until they ask anew.) Operator mode has
one account for all, AGENTS, because there an account is a token that has to be pushed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate_schemas import subjects
from tidegate_schemas.identity import BUILT_IN_TEAM, Role
from tidegate_schemas.subjects import Principal

MAX_PAYLOAD = 1024 * 1024
"""Largest message the broker takes. Above the gateway's limit, so that what is too large for
the gateway still reaches it and is recorded as rejected."""

MAX_CONNECTIONS = 20_000
"""Of all clients together; the warden sees to it that no identity has more than its share."""

MAX_SUBSCRIPTIONS = 64
"""Of one connection; a worker has a handful. Each is a copy of a message that the broker makes."""

MAX_PENDING = 32 * 1024 * 1024
"""Bytes that wait for a client that does not read, before the broker lets it go."""

LOG_BYTES = 64 * 1024 * 1024
"""Of one file of the broker's log."""

SILENCE_SECONDS = 35.0
"""A pull to which nothing came for so long may be forgotten by the broker: across accounts it keeps
each request in mind for one to two times this. Ours have heartbeats; a pull without them must not
last longer than 30 s."""


REGISTRAR = Principal(BUILT_IN_TEAM, "registrar")
WARDEN = Principal(BUILT_IN_TEAM, "warden")
PROBE = Principal(BUILT_IN_TEAM, "probe")
NOTARY = Principal(BUILT_IN_TEAM, "notary")

TOGETHER = "AGENTS"
"""The account of all who submit or receive, where they have none of their own."""

_ACCOUNTS = {
    Role.GATEWAY: "BUS",
    Role.REGISTRAR: "BUS",
    Role.NOTARY: "BUS",
    Role.WARDEN: "SYS",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal that may connect, by its public key."""

    principal: Principal
    role: Role
    public_key: str


def account(role: Role) -> str:
    """The account of a role's principals where they have none of their own."""
    return _ACCOUNTS.get(role, TOGETHER)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a user may publish on and subscribe to. Nothing else is allowed."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(principal: Principal, role: Role, partition: int = 0) -> Permissions:
    """Everything a principal may do at the broker."""
    ingress, ledger = subjects.ingress_stream(partition), subjects.ledger_stream(partition)
    heads = subjects.heads_stream(partition)
    own_inbox = f"{subjects.inbox(principal)}.>"
    sender = Permissions(
        (subjects.submission(principal), subjects.vault(principal)),
        (own_inbox, subjects.receipt(principal)),
    )
    reader = (subjects.direct_get(ledger),)
    match role:
        case Role.GATEWAY:
            return Permissions(
                (
                    subjects.ledger_subjects(partition),
                    subjects.submission(principal),
                    subjects.RECEIPT_SUBJECTS,
                    subjects.tail(partition),
                    subjects.head(partition),
                    subjects.direct_get(heads),
                    *reader,
                    subjects.stream_info(ledger),
                    subjects.stream_info(ingress),
                    subjects.stream_purge(ingress),
                    f"{subjects.consumer_create(ingress)}.>",
                    subjects.pull(ingress, "*"),
                    subjects.ANSWERS,
                ),
                (own_inbox, subjects.VAULT_SUBJECTS),
            )
        case Role.REGISTRAR:  # creates; may neither change nor delete the ledger
            return Permissions(
                (
                    f"$JS.API.STREAM.CREATE.{ingress}",
                    f"$JS.API.STREAM.CREATE.{ledger}",
                    f"$JS.API.STREAM.CREATE.{heads}",
                    f"$JS.API.STREAM.UPDATE.{ingress}",
                    f"$JS.API.STREAM.UPDATE.{heads}",
                    subjects.stream_info(ingress),
                    subjects.stream_info(ledger),
                    subjects.stream_info(heads),
                    f"{subjects.consumer_create(ledger)}.>",
                    f"$JS.API.CONSUMER.INFO.{ledger}.*",
                    subjects.consumer_list(ledger),
                    subjects.consumer_pause(ledger, "*"),
                ),
                (own_inbox,),
            )
        case Role.NOTARY:  # reads, and writes nowhere
            return Permissions(
                (*reader, subjects.direct_get(heads), subjects.stream_info(ledger)), (own_inbox,)
            )
        case Role.AGENT:
            name = subjects.consumer(principal)
            return Permissions(
                (*sender.publish, subjects.pull(ledger, name), subjects.acks(ledger, name)),
                sender.subscribe,
            )
        case Role.COORDINATOR | Role.OPERATOR:
            return Permissions(
                (*sender.publish, *reader), (*sender.subscribe, subjects.tail(partition))
            )
        case Role.READER:
            return Permissions(reader, (own_inbox, subjects.tail(partition)))
        case Role.PUBLISHER | Role.PROBE:
            return sender
        case Role.WARDEN:
            return Permissions(
                ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.KICK", "$SYS.REQ.CLAIMS.UPDATE"),
                (
                    own_inbox,
                    "$SYS.ACCOUNT.*.CONNECT",
                    "$SYS.ACCOUNT.*.DISCONNECT",
                    "$SYS.SERVER.*.CLIENT.AUTH.ERR",
                ),
            )


def configuration(
    identities: Iterable[Identity],
    *,
    store: Path,
    store_bytes: int,
    host: str = "127.0.0.1",
    port: int = -1,
    tls: dict[str, Any] | None = None,
    log: Path | None = None,
    partition: int = 0,
    together: bool = False,
) -> str:
    """The text of a nats-server configuration file (JSON, which that format contains).

    Args:
        identities: who may connect; nobody else can.
        store: folder of the streams.
        store_bytes: how much the streams may take; a full disk is found out when it is full.
        host: where to listen.
        port: where to listen; -1 takes a free one.
        tls: the block of that name, where clients must speak TLS.
        log: file to log to; one that is full gets a successor, and four are kept.
        partition: number in the names of the streams.
        together: one account for all who submit or receive, instead of one for each.
    """
    document = {
        "server_name": "tidegate",
        "listen": f"{host}:{port}",
        "max_payload": MAX_PAYLOAD,
        "max_connections": MAX_CONNECTIONS,
        "max_subscriptions": MAX_SUBSCRIPTIONS,
        "max_pending": MAX_PENDING,
        "write_deadline": "5s",
        **({"tls": tls} if tls else {}),
        **(_logging(log) if log else {}),
        "jetstream": {
            "store_dir": str(store),
            "max_file_store": store_bytes,
            "limits": {"default_max_consumers": 20_000},
        },
        "feature_flags": {"js_ack_fc_v2": False},  # the ack subjects above are of the first form
        "system_account": "SYS",
        "accounts": _accounts(identities, partition, together),
    }
    # Not with ensure_ascii: the broker's parser does not know escapes like \\u00e9 in a path.
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _logging(log: Path) -> dict[str, Any]:
    """Whatever somebody makes the broker say, it does not fill the disk."""
    return {"log_file": str(log), "logfile_size_limit": LOG_BYTES, "logfile_max_num": 4}


def _accounts(identities: Iterable[Identity], partition: int, together: bool) -> dict[str, Any]:
    services, streams = _services(partition), (subjects.RECEIPT_SUBJECTS, subjects.TAIL_SUBJECTS)
    # Without such a list everybody may import: there are no other accounts than these.
    whom = {"accounts": [TOGETHER]} if together else {}
    found: dict[str, Any] = {
        "SYS": {"users": []},
        "BUS": {
            "jetstream": "enabled",
            "users": [],
            "exports": [
                *({"service": s, **extra, **whom} for s, extra in services),
                *({"stream": s, **whom} for s in streams),
            ],
        },
    }
    if together:
        found[TOGETHER] = {"users": [], "imports": _imports([s for s, _ in services], streams)}
    for identity in identities:
        who, role = identity.principal, identity.role
        allowed = permissions(who, role, partition)
        # Without dots: names of accounts are tokens of the broker's own events.
        name = account(role) if together else _ACCOUNTS.get(role, subjects.consumer(who))
        if name not in found:
            heard = [s for s in allowed.subscribe if not s.startswith(subjects.inbox(who))]
            found[name] = {"users": [], "imports": _imports(allowed.publish, heard)}
        found[name]["users"].append(
            {
                "nkey": identity.public_key,
                "permissions": {
                    "publish": {"allow": list(allowed.publish)},
                    "subscribe": {"allow": list(allowed.subscribe)},
                },
            }
        )
    return found


def _imports(services: Iterable[str], streams: Iterable[str]) -> list[dict[str, Any]]:
    """What an account gets from BUS: what its users may ask and hear, and nothing else."""
    return [
        *({"service": {"account": "BUS", "subject": s}} for s in services),
        *({"stream": {"account": "BUS", "subject": s}} for s in streams),
    ]


def _services(partition: int) -> list[tuple[str, dict[str, Any]]]:
    """What may be asked of BUS, per-user permissions on top.

    Not the info API: across accounts the broker answers it with 10039, JetStream not enabled.
    """
    ledger = subjects.ledger_stream(partition)
    once = {"threshold": "5s"}  # until an answer that never comes is forgotten
    many = {"response_type": "stream", "threshold": f"{SILENCE_SECONDS:.0f}s"}
    return [
        (subjects.INGRESS_SUBJECTS, once),
        (subjects.VAULT_SUBJECTS, once),
        (subjects.pull(ledger, "*"), many),
        (f"$JS.ACK.{ledger}.>", once),
        (subjects.direct_get(ledger), many),
    ]
