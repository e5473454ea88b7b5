"""What a principal may do at the broker, in words: every subject of its permissions."""

from __future__ import annotations

from tidegate_bus.broker.accounts import TOGETHER, account, permissions
from tidegate_schemas import subjects
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

_ACCOUNTS = {"SYS": "which is the broker's own", "BUS": "where the streams are"}
_NO_STREAMS = "from which no stream can be reached"


def rights(principal: Principal, role: Role, *, together: bool = False) -> list[str]:
    """One line a right, in the order of the permissions: what it publishes, what it hears.

    Args:
        principal: who.
        role: what it is.
        together: whether all who submit or receive share an account, see `accounts`.
    """
    allowed, name = permissions(principal, role), account(role)
    if name == TOGETHER and not together:
        lines = [f"connect to an account of its own, {_NO_STREAMS}"]
    else:
        lines = [f"connect to the account {name}, {_ACCOUNTS.get(name, _NO_STREAMS)}"]
    lines += [_does(subject, principal) for subject in allowed.publish]
    lines += [_hears(subject, principal) for subject in allowed.subscribe]
    return lines


def _does(subject: str, who: Principal) -> str:
    ingress, ledger = subjects.ingress_stream(0), subjects.ledger_stream(0)
    own, heads = subjects.consumer(who), subjects.heads_stream(0)
    known = {
        subjects.submission(who): "submit as itself",
        subjects.vault(who): "ask for the keys of messages with personal data",
        subjects.ANSWERS: "answer who asks for keys",
        subjects.ledger_subjects(0): "write records to the ledger",
        subjects.RECEIPT_SUBJECTS: "tell senders their verdicts",
        subjects.tail(0): "announce that the ledger grew",
        subjects.head(0): "sign how long the ledger is, and its root",
        subjects.direct_get(heads): "read what was signed of the ledger",
        subjects.stream_info(heads): "see the state of the stream of signed heads",
        subjects.direct_get(ledger): "read the whole ledger",
        subjects.stream_info(ledger): "see the state of the ledger's stream",
        subjects.stream_info(ingress): "see the state of the ingress",
        subjects.stream_purge(ingress): "trim the ingress",
        f"{subjects.consumer_create(ingress)}.>": "make consumers of the ingress",
        subjects.pull(ingress, "*"): "pull submissions",
        f"$JS.API.STREAM.CREATE.{ingress}": "make the ingress stream",
        f"$JS.API.STREAM.CREATE.{ledger}": "make the ledger's stream (not change or delete it)",
        f"$JS.API.STREAM.CREATE.{heads}": "make the stream of signed heads",
        f"$JS.API.STREAM.UPDATE.{ingress}": "change the ingress stream",
        f"$JS.API.STREAM.UPDATE.{heads}": "change the stream of signed heads",
        f"{subjects.consumer_create(ledger)}.>": "make and change consumers of the ledger",
        f"$JS.API.CONSUMER.INFO.{ledger}.*": "see the state of every consumer",
        subjects.consumer_list(ledger): "list the consumers",
        subjects.consumer_pause(ledger, "*"): "pause and resume deliveries from the ledger",
        subjects.pull(ledger, own): "pull what was admitted for it",
        subjects.acks(ledger, own): "settle what was delivered to it",
        "$SYS.REQ.SERVER.PING.CONNZ": "list connections",
        "$SYS.REQ.SERVER.*.KICK": "cut connections",
        "$SYS.REQ.CLAIMS.UPDATE": "push new claims of accounts, in operator mode",
    }
    return f"{known.get(subject, 'publish')} ({subject})"


def _hears(subject: str, who: Principal) -> str:
    known = {
        f"{subjects.inbox(who)}.>": "hear answers on its own inbox",
        subjects.receipt(who): "hear the verdicts on what it submitted",
        subjects.VAULT_SUBJECTS: "hear who asks for keys",
        subjects.tail(0): "hear that the ledger grew",
        "$SYS.ACCOUNT.*.CONNECT": "hear who connects",
        "$SYS.ACCOUNT.*.DISCONNECT": "hear who disconnects",
        "$SYS.SERVER.*.CLIENT.AUTH.ERR": "hear of refused logins",
    }
    return f"{known.get(subject, 'hear')} ({subject})"


def summary(principal: Principal, role: Role) -> str:
    """The same in a line, without the subjects."""
    return ", ".join(line.partition(" (")[0] for line in rights(principal, role)[1:])
