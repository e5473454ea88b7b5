"""Advice: slips of the author that a gateway takes, because somebody may join later."""

from __future__ import annotations

import json

import pytest

from tidegate_policy.bundle import Bundle
from tidegate_policy.bundle.advice import COMMANDS, EVENTS, Known, advise
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_schemas import vocabulary
from tidegate_schemas.identity import Registration, Role

MEMBERS = (
    Registration("blue.one", Role.AGENT, ("blue.work", "blue.play")),
    Registration("red.one", Role.AGENT, ("red.work",)),
    Registration("red.web", Role.PUBLISHER),
)
KNOWN = Known(
    Roster.of([*BUILT_IN.members.values(), *MEMBERS]), frozenset(["order.placed", "order.paid"])
)
FILES = {
    "facts.yaml": "task: { blue.play: { n: Long } }\nevent: { mail.sent: { n: Long } }",
    "entities.json": json.dumps(
        [
            {
                "uid": {"type": "Topic", "id": "order.paid"},
                "parents": [{"type": "Group", "id": "g"}],
            },
            {"uid": {"type": "Agent", "id": "ops.ann"}, "parents": [{"type": "Group", "id": "h"}]},
            {"uid": {"type": "Team", "id": "ghosts"}},
            {"uid": {"type": "Group", "id": "empty"}},
        ]
    ),
}


def advice(text: str, **files: str) -> str:
    """What is said of a file of rules."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    bundle = Bundle.of_files({"a.cedar": text, **FILES, **named})
    return "\n".join(fault.told() for fault in advise(bundle, KNOWN))


def rule(principal: str = "principal", action: str = "action", resource: str = "resource") -> str:
    """A rule with this scope, to be ended."""
    return f'@id("a")\npermit ({principal},\n{action},\n{resource})'


TASK, EVENT = 'action in Action::"task"', 'action in Action::"event"'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            rule('principal == Agent::"blue.oen"') + ";",
            "a.cedar:2: a: there is no Agent 'blue.oen'; did you mean blue.one?",
        ),
        (
            rule(resource='resource in Team::"bleu"') + ";",
            "a.cedar:4: a: there is no Team 'bleu'; did you mean blue?",
        ),
        (
            rule(action=TASK) + '\nwhen { resource == Capability::"red.play" };',
            "a.cedar:5: a: there is no Capability 'red.play'; did you mean",
        ),
        (
            rule(action=EVENT, resource='resource == Topic::"order.place"') + ";",
            "there is no Topic 'order.place'; did you mean order.placed?",
        ),
        (
            rule(resource='resource == Command::"runn.start"') + ";",
            "there is no Command 'runn.start'; did you mean run.start?",
        ),
        (
            rule('principal in Group::"zzz"') + ";",
            "there is no Group 'zzz'; entities.json says which groups there are",
        ),
        (
            rule() + '\nwhen { principal.role == "agnet" };',
            "a.cedar:5: a: there is no role 'agnet'; did you mean agent?",
        ),
        (
            rule() + '\nwhen { ["agent", "people"].contains(principal.role) };',
            "there is no role 'people'; there are ",
        ),
        (
            f'@require_approval("1 of ops.anne")\n{rule()};',
            "a.cedar:1: a: @require_approval: there is no 'ops.anne'; did you mean ops.ann?",
        ),
        (
            f'@require_approval("1 of zoe.zzz")\n{rule()};',
            'stand in entities.json: {"uid": {"type": "Agent", "id": "…"}, "parents": []}',
        ),
        (f'@require_approval("1 of team zzz")\n{rule()};', "there is no 'zzz'"),
        (f'@require_approval("1 of role chief")\n{rule()};', "there is no 'chief'"),
    ],
)
def test_names_that_nobody_has_are_told(text: str, told: str) -> None:
    """With the line on which they stand, and what was most likely meant."""
    assert told in advice(text)


NEVER = "a.cedar:1: a can never apply: "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (rule('principal in Team::"ghosts"') + ";", "no agent that is known"),
        (rule('principal in Group::"empty"') + ";", "no agent that is known"),
        (
            rule('principal == Agent::"blue.one"') + ' when { principal in Team::"red" };',
            "no agent that is known",
        ),
        (rule() + ' when { principal.role == "gateway" };', "no agent that is known"),
        (rule() + ' unless { ["agent"].contains("agent") };', "no agent that is known"),
        (rule() + " when { false };", "no agent that is known"),
        (rule(action=TASK, resource='resource in Team::"ghosts"') + ";", "no Capability that is"),
        (rule(action=EVENT, resource='resource in Group::"empty"') + ";", "no Topic that is known"),
        (
            rule(action='action in Action::"control"')
            + ' when { ["run.begin", "run.end"].contains(context.to) };',
            "no Command that is known",
        ),
        (
            rule(action='action in Action::"control"') + ' when { context.to like "runs.*" };',
            "no Command that is known",
        ),
        (
            rule(action='action == Action::"task:blue.play"', resource='resource in Team::"red"')
            + ";",
            "no Capability that is known",
        ),
        (
            rule(action='action in Action::"result"')
            + ' when { principal in Team::"blue" && resource == principal }'
            + ' unless { resource in Team::"blue" };',
            "nobody who is known satisfies it together with anything to send to",
        ),
    ],
)
def test_rules_that_can_never_apply_are_told(text: str, why: str) -> None:
    """And whether it is for want of somebody, of something, or of both together."""
    assert f"{NEVER}{why}" in advice(text)


@pytest.mark.parametrize(
    "text",
    [
        rule() + ";",
        rule('principal in Team::"red"', TASK, 'resource in Team::"blue"') + ";",
        rule('principal == Agent::"ops.ann"') + ' when { principal.role == "operator" };',
        rule('principal in Group::"h"') + ";",
        rule() + ' when { principal.role == "operator" && context.in_run };',
        rule() + ' when { context.type == "anything" };',
        rule() + ' when { context has dataclassification && context.dataclassification == "x" };',
        rule(action=EVENT) + ' when { context.to like "never.heard.of.*" };',
        rule(action=EVENT, resource='resource == Topic::"mail.sent"') + ";",
        rule(action=EVENT, resource='resource == Topic::"run.finished"') + ";",
        rule(action='action == Action::"task:blue.play"') + " when { context.data.n > 3 };",
        rule() + " when { context has data && context.data has n && context.data.n > 3 };",
        rule(action='action in Action::"result"', resource='resource in Team::"red"') + ";",
        rule() + ' when { !(principal in Team::"red") || resource == principal };',
        rule() + " when { principal == resource };",
        rule() + ' when { if context.in_run then principal.role == "probe" else true };',
        rule(action='action in Action::"control"')
        + ' when { ["run.start"].contains(context.to) };',
        rule() + " when { principal is Agent && resource is Command };",
    ],
)
def test_what_may_apply_is_not_told(text: str) -> None:
    """Advice that is wrong would not be followed for long."""
    assert advice(text) == ""


def test_facts_of_what_nobody_takes_are_told() -> None:
    """With the line of the destination."""
    text = "event: { a: { n: Long } }\ntask:\n  blue.wrok: { n: Long }"

    assert advice(rule() + ";", facts_yaml=text) == (
        "facts.yaml:3: there is no Capability 'blue.wrok'; did you mean blue.work?"
    )


def test_a_bundle_that_no_message_holds_is_told() -> None:
    """It travels in a control message."""
    assert "are taken; raise" in advice(rule() + ";" + "// filler\n" * 30_000)


def test_every_word_of_the_bus_is_known() -> None:
    """A command or event that is added to the vocabulary is added here."""
    words = {w for n, w in vars(vocabulary).items() if n.isupper() and isinstance(w, str)}

    assert {*COMMANDS, *EVENTS} == words - {
        vocabulary.RESULT,  # types, not destinations
        vocabulary.DEADLETTER,
        vocabulary.CLOCK_TICK,  # by the gateway, which asks no policy
        vocabulary.PRIVACY_EXPIRE,
    }
