"""Who takes part: a fold of the ledger, in the gateway as in anybody who reads along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES, NOW, PERMIT, loaded, submission
from policy.rig import running
from support import AGENT, OPERATOR, OTHER, PUBLISHER, Broker
from support.broker import PERMIT_ALL
from tidegate_bus.publisher import Publisher
from tidegate_policy.bundle import Snapshot
from tidegate_policy.decide import Limits, decide, record
from tidegate_policy.roster import BUILT_IN, Change
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Denied, InvalidEnvelope
from tidegate_schemas.identity import GIVEN, Registration, Revocation, Role
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import IDENTITY_REGISTER, IDENTITY_REVOKE

LIMITS = Limits(10_000)
names = st.sampled_from(["a.one", "a.two", "b.one"])
registrations = st.builds(
    Registration,
    names,
    st.sampled_from(GIVEN),
    st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=2).map(tuple),
    keys=st.just(("U",)),
)


def command(change: Change) -> Envelope:
    """A change as an operator sends it."""
    to = IDENTITY_REGISTER if isinstance(change, Registration) else IDENTITY_REVOKE
    return Envelope.new(to, change, kind="control", to=to)


@EXAMPLES
@given(st.lists(registrations | st.builds(Revocation, names)))
def test_the_roster_is_what_the_last_change_of_each_says(changes: list[Change]) -> None:
    """As a mapping would be; a capability never has two providers, nobody built in ever goes."""
    roster, model = BUILT_IN, dict[str, Registration]()
    for change in changes:
        taken = {c for n, m in model.items() if n != change.principal for c in m.capabilities}
        try:
            roster = roster.after(change)
        except InvalidEnvelope:
            if isinstance(change, Registration):
                assert taken.intersection(change.capabilities)
            else:
                assert change.principal not in model
            continue
        if isinstance(change, Registration):
            assert not taken.intersection(change.capabilities)
            model[change.principal] = change
        else:
            del model[change.principal]

    assert roster.members == {**BUILT_IN.members, **model}
    assert roster.providers == {c: n for n, m in model.items() for c in m.capabilities}


REGISTRATION = {"principal": "a.b", "role": "agent", "keys": ["U"]}
INVALID: dict[str, tuple[str, Any]] = {
    "no data": (IDENTITY_REGISTER, None),
    "no keys": (IDENTITY_REGISTER, {**REGISTRATION, "keys": []}),
    "unknown field": (IDENTITY_REGISTER, {**REGISTRATION, "seed": "SU"}),
    "a name": (IDENTITY_REGISTER, {**REGISTRATION, "principal": "a.*"}),
    "a third token": (IDENTITY_REGISTER, {**REGISTRATION, "principal": "a.b.c"}),
    "a capability": (IDENTITY_REGISTER, {**REGISTRATION, "capabilities": ["x.>"]}),
    "a topic": (IDENTITY_REGISTER, {**REGISTRATION, "subscribes": [">"]}),
    "another's capability": (IDENTITY_REGISTER, {**REGISTRATION, "capabilities": ["work.do"]}),
    "a publisher that takes work": (
        IDENTITY_REGISTER,
        {**REGISTRATION, "role": "publisher", "capabilities": ["x"]},
    ),
    "a role that is not given": (IDENTITY_REGISTER, {**REGISTRATION, "role": "coordinator"}),
    "no role": (IDENTITY_REGISTER, {**REGISTRATION, "role": "king"}),
    "the bus's own": (IDENTITY_REGISTER, {**REGISTRATION, "principal": "tidegate.coordinator"}),
    "the bus's own team": (IDENTITY_REGISTER, {**REGISTRATION, "principal": "tidegate.x"}),
    "a stranger revoked": (IDENTITY_REVOKE, {"principal": "a.b"}),
    "the operator revoked": (IDENTITY_REVOKE, {"principal": "tidegate.operator"}),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Policies that permit everything."""
    return loaded(tmp_path_factory.mktemp("bundle"), PERMIT)


@pytest.mark.parametrize("what", INVALID)
def test_a_command_that_nobody_can_follow_is_not_admitted(bundle: Snapshot, what: str) -> None:
    """Whatever policy permits: what is in the ledger can be folded by everybody."""
    to, data = INVALID[what]
    given_ = submission(encode(Envelope.new(to, data, kind="control", to=to)))

    decision = decide(State(bundle, Window(600, 10)), LIMITS, given_, NOW)

    assert (decision.verdict, decision.reason) == (Verdict.DENY, "invalid_command")
    assert decision.facts["detail"]


@pytest.mark.parametrize("role", GIVEN)
def test_policies_speak_of_who_is_registered(bundle: Snapshot, role: Role, tmp_path: Path) -> None:
    """A registration gives the next snapshot: the same bundle, and the newcomer with its role."""
    text = '@id("a") permit (principal in Team::"new", action, resource) '
    text += f'when {{ principal.role == "{role}" }};'
    policies = loaded(tmp_path, PERMIT.replace("principal,", 'principal in Team::"team",'), text)
    event = submission(encode(Envelope.new("x")), by="new.comer")
    registration = submission(encode(command(Registration("new.comer", role, keys=("U",)))))

    state = State(policies, Window(600, 10))
    before = decide(state, LIMITS, event, NOW)
    admitted = decide(state, LIMITS, registration, NOW)
    digest = policies.bundle.digest
    made = record(admitted, registration, digest, log="test/0", seq=1, epoch=1, now=NOW)
    state.apply(made, admitted.envelope, NOW)
    after = decide(state, LIMITS, event, NOW)

    assert (before.reason, after.reason, after.policies) == ("unknown_sender", "permitted", ("a",))


def test_a_record_that_is_submitted_again_is_rejected(bundle: Snapshot) -> None:
    """What bears the headers of what is stored was not made by its sender."""
    payload = encode(Envelope.new("x"))
    given_ = submission(payload)
    given_ = type(given_)(given_.seq, given_.time, given_.by, payload, "Nats-Sequence")

    decision = decide(State(bundle, Window(600, 10)), LIMITS, given_, NOW)

    assert (decision.verdict, decision.reason) == (Verdict.REJECT, "reserved_header")
    assert "Nats-Sequence" in decision.facts["detail"]


async def _heard(publisher: Publisher) -> str:
    try:
        await publisher.publish(Envelope.new("x"))
    except Denied as denied:
        return denied.reason
    return "permitted"


async def test_the_gateway_knows_whom_the_ledger_names(broker: Broker) -> None:
    """From the record on, and after a restart from the ledger alone, until another one."""
    built_in = list(BUILT_IN.members.values())
    operator, other = await broker.publisher(OPERATOR), await broker.publisher(OTHER)
    async with running(broker, PERMIT_ALL, built_in):
        assert await _heard(other) == "unknown_sender"
        await operator.publish(command(Registration(str(OTHER), Role.AGENT, keys=("U",))))
        assert await _heard(other) == "permitted"
    async with running(broker, PERMIT_ALL, built_in):
        assert await _heard(other) == "permitted"
        with pytest.raises(Denied, match=r"work\.do is provided by"):
            taken = Registration(str(AGENT), Role.AGENT, ("work.do",), keys=("U",))
            await operator.publish(command(taken))
            await operator.publish(
                command(Registration(str(PUBLISHER), Role.AGENT, ("work.do",), keys=("U",)))
            )
        await operator.publish(command(Revocation(str(OTHER), "left")))
        assert await _heard(other) == "unknown_sender"
    async with running(broker, PERMIT_ALL, built_in):
        assert await _heard(other) == "unknown_sender"


async def test_what_was_submitted_before_a_revocation_is_decided_after_it(broker: Broker) -> None:
    """The order of the ingress counts: who is revoked is denied what still waited there."""
    operator, other = await broker.publisher(OPERATOR), await broker.publisher(OTHER)
    await operator.publish(command(Revocation(str(OTHER))), wait="accepted")
    await other.publish(Envelope.new("x"), wait="accepted")
    async with running(broker):
        await operator.publish(Envelope.new("x"))

    assert [(r.by, r.why.reason) for r in await broker.records()][:2] == [
        (str(OPERATOR), "permitted"),
        (str(OTHER), "unknown_sender"),
    ]
