"""Faults of rules: each has its line, says what is wrong, and shows the way out."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES, PERMIT
from tidegate_policy.bundle import Bundle, Fault, examine
from tidegate_schemas.errors import InvalidPolicy

FACTS = "task: { work.do: { n: Long, s: { type: String, at: /in/s } } }"


def faults(text: str, facts: str = FACTS) -> list[str]:
    """What is wrong with a file, as it is told."""
    bundle, found = examine({"a.cedar": text, "facts.yaml": facts})
    assert (bundle is None) == bool(found)
    return [fault.told() for fault in found]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '// first\n\n@id("a")\npermit (principal, action, resource);\n\n'
            '@id("b")\npermit (principal, action, resource)\nwhen { context.x };',
            "a.cedar:8: b: attribute `x` in context for Action::",
        ),
        (
            '@id("a")\npermit (principal,\n  action == Action::"taks",\n  resource);',
            'a.cedar:3: a: unrecognized action `Action::"taks"`; did you mean task?',
        ),
        (
            '@id("a") permit (principal, action == Action::"task:work.did", resource);',
            "did you mean task:work.do?",
        ),
        (
            '@id("a") permit (principal, action == Action::"task", resource);',
            'write `action in Action::"task"`: it stands for several actions',
        ),
        (
            '@id("a")\npermit (principal, action, resource)\nwhen { action == Action::"task" };',
            'a.cedar:3: no message is Action::"task" itself: it stands for several actions; '
            'write `action in Action::"task"`',
        ),
        (
            '@id("a") permit (principal, action, resource)'
            ' when { [Action::"task", Action::"event"].contains(action) };',
            'a.cedar:1: no message is Action::"event" itself',
        ),
        (
            '@id("a") forbid (principal, action == Action::"task:other", resource);',
            'Action::"task:other" is every task without facts, until it is given some; '
            'write `action in Action::"task"`',
        ),
        (
            '@id("a") permit (principal, action in Action::"task", resource)'
            " when { context.data.n > 1 };",
            'only messages with facts in facts.yaml have `data`: write e.g. `action == Action::"t',
        ),
        (
            '@id("a")\n// what may be told\n@redcat("/x")\npermit (principal, action, resource);',
            "a.cedar:3: @redcat is unknown and would be ignored; did you mean @redact?",
        ),
        (
            '@id("a")\n@rate_limit("lots")\npermit (principal, action, resource);',
            "a.cedar:2: @rate_limit('lots') is not like \"100/1m per agent\"",
        ),
        (
            '@id("a")\n@rate_limit("1/1m")\n@budget("usd:1")\n@shadow("on")\n'
            "permit (principal, action, resource);",
            "a.cedar:3: @budget('usd:1') has no window; write one such as /1d, or `per run`\n"
            'a.cedar:4: @shadow takes no text; write @shadow("") or @shadow',
        ),
        (
            '@id("a") @learn forbid (principal, action, resource);',
            "a.cedar:1: @learn obliges nobody on a forbid; put it on a permit",
        ),
        (
            '@id("a")\n@redact("/in")\npermit (principal, action in Action::"task", resource);',
            "a.cedar:2: @redact: /in is a fact of task work.do, which the ledger must keep",
        ),
        (
            '@id("a") @redact("/n/x") permit (principal, action, resource);',
            "/n/x is a fact of task work.do",
        ),
        (
            '@id("a")\npermit (principal, action, resource)\n'
            'when { decimal("1000").lessThan(decimal("1.0")) };',
            'a decimal has a point and one to four digits after it: `decimal("1000.0")`',
        ),
        (
            '@id("a")\npermit (principal, action, resource)\nwhen { principal.team == "ops" };',
            'not found; write e.g. `principal in Team::"ops"`',
        ),
        (f"{PERMIT}\n\n{PERMIT}", "a.cedar:3: @id('everything') is already in a.cedar:1"),
        ('@id("a") permit (principal, action, resource)', "unexpected end of input; a policy ends"),
        (
            f'{PERMIT}\n@id("a") permit (principle, action, resource);\n'
            '@id("b") permit (principal, action);',
            "a.cedar:2: found an invalid variable in the policy scope: principle\n"
            "a.cedar:3: this policy is missing the `resource` variable in the scope",
        ),
        (
            "@id(“a”) permit (principal, action, resource);",
            "perhaps a quote or a dash of a word pr",
        ),
        ('@id("a")\npermit (principal, action, resource == ?resource);', "a.cedar:1: a template"),
    ],
)
def test_a_fault_has_a_line_and_a_way_out(text: str, told: str) -> None:
    """All faults of a file are told, each where it stands."""
    assert told in "\n".join(faults(text))


@pytest.mark.parametrize(
    "text",
    [
        '@id("a") @redact("/in") permit (principal, action in Action::"event", resource);',
        '@id("a") @redact("/in") permit (principal, action == Action::"task:x.y", resource);',
        '@id("a") @redact("/inn /nn") permit (principal, action in [Action::"task"], resource);',
        '@id("a") permit (principal, action, resource)'
        ' when { action in Action::"event" || action in [Action::"task", Action::"task:work.do"]};',
        '@id("a") @shadow @learn @rate_limit("1/1m") permit (principal, action, resource);',
    ],
)
def test_what_harms_nobody_is_taken(text: str) -> None:
    """A field may be a fact of one destination and be redacted in others, and so on."""
    assert not faults(
        text, FACTS + "\n" if "x.y" not in text else f"{FACTS[:-1]}, x.y: {{ m: Long }} }}"
    )


@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n"])
def test_a_comment_ends_where_cedar_ends_it(newline: str) -> None:
    """No policy hides behind a comment from who counts policies, nor from who counts brackets."""
    hidden = f'// x{newline}@id("b") permit (principal, action, resource);'
    deep = f'// x{newline}@id("b") permit (principal, action, resource) when {{ {"(" * 5000} }};'

    bundle, found = examine({"a.cedar": f"{PERMIT}{hidden}"})

    assert not found
    assert bundle
    assert list(bundle.rules) == ["everything", "b"]
    assert "nested more than" in faults(deep)[0]


def test_lines_are_those_of_the_file() -> None:
    """Whatever stands before: comments, texts with line breaks and semicolons, empty lines."""
    head = '@id("a") permit (principal, action, resource) when { context.to == "x;\n\n;" };\n'
    text = f'// ; "\n{head}// permit (\n\n\n   @id("b")\npermit (principal, action, resource);'

    bundle = Bundle.of_files({"a.cedar": text})

    assert [(rule.id, rule.line) for rule in bundle.rules.values()] == [("a", 2), ("b", 8)]


def test_every_fault_of_every_file_is_told() -> None:
    """Whoever mends a bundle sees all that is wrong with it, sorted by file and line."""
    bundle, found = examine(
        {
            "b.cedar": "permit (principal, action, resource);",
            "a.cedar": f'{PERMIT}\n@id("x") permit (principal, action, resource) when {{ 1 }};',
            "facts.yaml": "task: 1",
            "entities.json": "1",
            "tests/x.yaml": "nobody reads it here",
            "x.txt": "",
        }
    )

    assert bundle is None
    assert [(fault.file, fault.line) for fault in found] == [
        ("a.cedar", 2),
        ("b.cedar", 1),
        ("entities.json", 1),
        ("facts.yaml", 1),
        ("x.txt", 0),
    ]


def test_a_fault_is_told_in_one_line() -> None:
    """File, line, what and hint, each only if there is one."""
    assert Fault("a", 1, "b", "c").told() == "a:1: b; c"
    assert Fault("a", 0, "b").told() == "a: b"
    assert Fault("", 0, "b").told() == "the bundle: b"
    assert Fault("a\n", 0, "b").told() == "'a\\n': b"


names = st.sampled_from(["a.cedar", "b.cedar", "tests/a.yaml", "é.cedar"])
texts = st.text("// \né\r", max_size=12).map(lambda text: f"//{text}\n")


@EXAMPLES
@given(st.dictionaries(names, texts, min_size=1), st.dictionaries(names, texts, min_size=1))
def test_a_digest_stands_for_the_files(one: dict[str, str], other: dict[str, str]) -> None:
    """Equal files have equal digests and different ones different; anybody can recompute it."""
    digests: list[str] = []
    kept: list[dict[str, str]] = []
    for files in ({"z.cedar": PERMIT, **one}, {"z.cedar": PERMIT, **other}):
        try:
            bundle = Bundle.of_files(files)
        except InvalidPolicy:
            return
        lines = "".join(
            f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
            for name, text in sorted(bundle.files.items())
        )
        assert bundle.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
        assert (
            Bundle.of_files(dict(sorted(bundle.files.items(), reverse=True))).digest
            == bundle.digest
        )
        digests.append(bundle.digest)
        kept.append(files)

    assert (digests[0] == digests[1]) == (kept[0] == kept[1])
