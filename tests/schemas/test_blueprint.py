"""Blueprints: a graph without cycles, and a digest that changes exactly when the meaning does."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.documents import loads
from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.errors import InvalidDocument

YAML, TOML = Path("review.yaml"), Path("review.toml")
STEP: dict[str, Any] = {"task": "repo.read"}

words = st.text(st.characters(codec="utf-8"), max_size=10)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
step_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in {"in", "true", "false", "null"}
)
durations = st.sampled_from(["250ms", "30s", "5m", 1, 2.5, 0]) | st.floats(0, 1e6)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid blueprint as plain values: every step needs only steps above it."""
    names = draw(st.lists(step_names, min_size=1, max_size=5, unique=True))
    steps: dict[str, Any] = {}
    for index, name in enumerate(names):
        more: dict[str, Any] = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "needs": st.lists(st.sampled_from(names[:index]), unique=True)
                    if index
                    else st.just([]),
                    "when": st.none() | words,
                    "foreach": st.none() | words,
                    "with": st.dictionaries(words, json_values, max_size=3),
                    "timeout": durations,
                    "retry": st.fixed_dictionaries(
                        {}, optional={"attempts": st.integers(1, 1000), "delay": durations}
                    ),
                },
            )
        )
        steps[name] = {"task": draw(st.sampled_from(["a", "repo.read"])), **more}
    more = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "description": words,
                "on": st.none() | st.just({"event": "repo.commit"}),
                "output": st.none() | words,
            },
        )
    )
    return {
        "blueprint": "review",
        "version": draw(st.integers(1, 2**53 - 1)),
        "steps": steps,
        **more,
    }


def blueprint(steps: dict[str, Any] | None = None, **more: Any) -> Blueprint:
    """A blueprint of some steps."""
    document = {"blueprint": "review", "version": 1, "steps": steps or {"one": STEP}}
    return Blueprint.model_validate(document | more)


def faults(text: str, path: Path = YAML) -> list[tuple[int, str, str]]:
    """Line, field and message of what is wrong with a text."""
    with pytest.raises(InvalidDocument) as caught:
        loads(text, Blueprint, path)
    return [(p.line, p.field, p.message) for p in caught.value.problems]


@given(documents())
def test_a_blueprint_comes_back_from_its_canonical_form(document: dict[str, Any]) -> None:
    """The canonical form is a blueprint again, the same one, and its own canonical form."""
    made = Blueprint.model_validate(document)
    again = Blueprint.from_canonical(made.canonical)

    assert again == made
    assert again.canonical == made.canonical
    assert again.digest == made.digest


@given(documents())
def test_a_blueprint_survives_the_way_through_the_ledger(document: dict[str, Any]) -> None:
    """The coordinator sends the canonical form as data and reads the same blueprint back."""
    made = Blueprint.model_validate(document)
    sent = Envelope.new("blueprint.register", {"document": made.canonical})
    read = Blueprint.from_canonical(decode(encode(sent), limit=None).payload()["document"])

    assert read == made
    assert read.digest == made.digest


@given(documents(), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(
    document: dict[str, Any], random: Any
) -> None:
    """Fields may be written in any order; steps as well, where the last one does not matter."""

    def shuffled(value: Any, keep: bool = False) -> Any:
        if not isinstance(value, dict):
            return value
        names: list[str] = list(value)  # pyright: ignore[reportUnknownArgumentType]  # plain JSON
        if not keep:
            random.shuffle(names)
        return {name: shuffled(value[name], name == "steps" and ordered) for name in names}

    ordered = document.get("output") is None
    other = Blueprint.model_validate(shuffled(document))
    assert other.digest == Blueprint.model_validate(document).digest


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"description": "", "on": None, "output": None}),
    ({}, {"output": "steps.one.output"}),
    ({}, {"steps": {"one": STEP | {"needs": [], "when": None, "foreach": None, "with": {}}}}),
    ({}, {"steps": {"one": STEP | {"retry": {"attempts": 1}, "timeout": 300}}}),
    (
        {"steps": {"one": STEP | {"timeout": "3300ms"}}},
        {"steps": {"one": STEP | {"timeout": 3.3}}},
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_digest_does_not_depend_on_what_is_spelled_out(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """A default that is written, and a duration in another unit, change nothing."""
    assert blueprint(**one).digest == blueprint(**other).digest


TEXTS = {
    YAML: """
blueprint: review
version: 3
on:
  event: repo.commit
steps:
  read: {task: repo.read, with: {sha: "${ event.sha }", n: 1, x: 1.5, y: [true, "on"]}}
  judge:
    needs: [read]
    task: repo.judge
    foreach: steps.read.output.files
    timeout: 1m
output: steps.judge.output
""",
    TOML: """
output = "steps.judge.output"
version = 3
blueprint = "review"
on.event = "repo.commit"
[steps.judge]
task = "repo.judge"
needs = ["read"]
foreach = "steps.read.output.files"
timeout = 60
[steps.read]
task = "repo.read"
[steps.read.with]
sha = "${ event.sha }"
y = [true, "on"]
x = 1.5
n = 1
""",
}


def test_the_digest_does_not_depend_on_the_format_of_the_file() -> None:
    """The same blueprint in YAML, in TOML and in JSON has one digest."""
    made = [loads(text, Blueprint, path) for path, text in TEXTS.items()]
    made.append(loads(json.dumps(made[0].canonical), Blueprint, Path("review.json")))

    assert len({one.digest for one in made}) == 1
    assert made[0] == made[1] == made[2]


CHANGES: dict[str, dict[str, Any]] = {
    "name": {"blueprint": "other"},
    "version": {"version": 2},
    "description": {"description": "x"},
    "trigger": {"on": {"event": "repo.commit"}},
    "other trigger": {"on": {"event": "repo.push"}},
    "output": {"output": "1"},
    "empty output": {"output": ""},
    "name of a step": {"steps": {"two": STEP}},
    "task": {"steps": {"one": {"task": "repo.write"}}},
    "one more step": {"steps": {"one": STEP, "two": STEP}},
    "last step": {"steps": {"two": STEP, "one": STEP}},
    "need": {"steps": {"one": STEP, "two": STEP | {"needs": ["one"]}}},
    "when": {"steps": {"one": STEP | {"when": "true"}}},
    "foreach": {"steps": {"one": STEP | {"foreach": "[1]"}}},
    "data": {"steps": {"one": STEP | {"with": {"a": 1}}}},
    "key of the data": {"steps": {"one": STEP | {"with": {"b": 1}}}},
    "data as text": {"steps": {"one": STEP | {"with": {"a": "1"}}}},
    "data as float": {"steps": {"one": STEP | {"with": {"a": 1.0}}}},
    "data as bool": {"steps": {"one": STEP | {"with": {"a": True}}}},
    "data as null": {"steps": {"one": STEP | {"with": {"a": None}}}},
    "data as text of null": {"steps": {"one": STEP | {"with": {"a": "null"}}}},
    "data in a list": {"steps": {"one": STEP | {"with": {"a": [1]}}}},
    "data in a longer list": {"steps": {"one": STEP | {"with": {"a": [1, 1]}}}},
    "data in a mapping": {"steps": {"one": STEP | {"with": {"a": {"1": 1}}}}},
    "timeout": {"steps": {"one": STEP | {"timeout": 301}}},
    "attempts": {"steps": {"one": STEP | {"retry": {"attempts": 2}}}},
    "delay": {"steps": {"one": STEP | {"retry": {"attempts": 1, "delay": 2}}}},
    "longest delay": {"steps": {"one": STEP | {"retry": {"attempts": 1, "max_delay": 61}}}},
}


def test_every_change_of_meaning_changes_the_digest() -> None:
    """No two of these blueprints mean the same, so no two share a digest."""
    digests = {name: blueprint(**change).digest for name, change in CHANGES.items()}
    digests["nothing"] = blueprint().digest

    assert len(set(digests.values())) == len(digests)


@given(documents(), documents())
def test_different_blueprints_have_different_digests(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Equal digests mean equal canonical forms, for all but an `output` that is written out."""
    left, right = Blueprint.model_validate(one), Blueprint.model_validate(other)
    same = msgspec.json.encode(left.canonical, order="sorted") == msgspec.json.encode(
        right.canonical, order="sorted"
    )
    if left.digest == right.digest:
        assert same or left.output != right.output


def test_the_digest_is_frozen() -> None:
    """Stored runs hold digests: the text that they are made of may not change."""
    text = (
        '{"blueprint":"review","description":"","on":null,"output":"steps.one.output",'
        '"steps":{"one":{"foreach":null,"needs":[],"retry":{"attempts":1,"delay":1.0,'
        '"max_delay":60.0},"task":"repo.read","timeout":300.0,"when":null,"with":{}}},'
        '"version":1}'
    )
    assert blueprint().digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


# The graph


def test_a_cycle_is_named() -> None:
    """The message walks the cycle and stands at the `needs` of one of its steps."""
    steps = "\n".join(
        f"  {name}:\n    task: t\n    needs: [{needs}]"
        for name, needs in {"a": "", "b": "a, d", "c": "b", "d": "c"}.items()
    )
    [(line, field, message)] = faults(f"blueprint: x\nversion: 1\nsteps:\n{steps}\n")

    assert message.startswith("steps wait for each other: ")
    walk = message.split(": ")[1].split(" -> ")
    assert walk[0] == walk[-1]
    assert set(walk) == {"b", "c", "d"}
    assert (line, field) == ({"b": 9, "c": 12, "d": 15}[walk[0]], f"steps.{walk[0]}.needs")


def test_a_step_that_needs_itself_is_a_cycle() -> None:
    """The smallest cycle is named as well."""
    with pytest.raises(ValidationError, match=r"steps wait for each other: one -> one"):
        blueprint({"one": STEP | {"needs": ["one"]}})


def test_unknown_needs_are_named_all_at_once() -> None:
    """Each need without a step is named with the step that has it and its line."""
    text = "blueprint: x\nversion: 1\nsteps:\n  a:\n    task: t\n    needs:\n    - b\n    - c\n"
    assert faults(text) == [
        (7, "steps.a.needs[0]", "there is no step 'b'"),
        (8, "steps.a.needs[1]", "there is no step 'c'"),
    ]


def test_the_largest_graph_is_read() -> None:
    """200 steps in a row are no problem; 201 are too many, and none are too few."""
    chain: dict[str, Any] = {
        f"s{n}": STEP | {"needs": [f"s{n - 1}"] if n else []} for n in range(200)
    }
    assert len(blueprint(chain).steps) == 200
    with pytest.raises(ValidationError, match="at most 200"):
        blueprint(chain | {"s200": STEP})
    with pytest.raises(ValidationError, match="at least 1"):
        Blueprint.model_validate({"blueprint": "a", "version": 1, "steps": {}})


# Faults


def test_a_trigger_is_written_as_on() -> None:
    """`on:` is a key in YAML here, not the boolean of YAML 1.1."""
    made = loads(TEXTS[YAML], Blueprint, YAML)
    assert made.on is not None
    assert made.on.event == "repo.commit"


@pytest.mark.parametrize("name", ["in", '"true"', "'false'", '"null"'])
def test_a_step_is_not_called_like_a_word_of_cel(name: str) -> None:
    """`steps.in.output` would not parse, so no step is called `in`."""
    [(line, field, message)] = faults(f"blueprint: x\nversion: 1\nsteps:\n  {name}: {{task: t}}\n")
    assert (line, field) == (4, f"steps.{name.strip(chr(34) + chr(39))}")
    assert "a word of CEL" in message


@pytest.mark.parametrize(
    "name", ["A", "a-b", "_a", "1a", '""', "a" * 64, "\u0430", '"a\\n"', "a.b"]
)
def test_a_step_has_a_name_that_cel_can_read(name: str) -> None:
    """Only small letters, digits and underscores make a name; the fault has the line of the key."""
    text = f"blueprint: x\nversion: 1\nsteps:\n  a: {{task: t}}\n  ? {name}\n  : task: t\n"
    assert [(line, "pattern" in message) for line, _, message in faults(text)] == [(5, True)]


NO_JSON: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": [float("-inf")],
    "over 64 bits": {"a": 2**64},
    "5,001 digits": 10**5000,
    "bytes": b"a",
    "set": {1},
    "tuple": (1,),
    "object": object(),
    "number as key": {1: 2},
    "half a surrogate pair": "\ud800",
    "half a surrogate pair as key": {"\ud800": 1},
}


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON.keys())
def test_data_without_a_json_form_is_refused(value: Any) -> None:
    """What the canonical form cannot hold would escape the digest."""
    with pytest.raises(ValidationError):
        blueprint({"one": STEP | {"with": {"a": value}}})


def test_data_inside_itself_is_refused() -> None:
    """A circle has no canonical form."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValidationError, match="nested more than"):
        blueprint({"one": STEP | {"with": {"a": circle}}})


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("with: {a: [1, .nan]}", "steps.one.with.a[1]"),
        ("with: {a: {b: 99999999999999999999}}", "steps.one.with.a.b"),
        ("with: []", "steps.one.with"),
        ("timeout: -1s", "steps.one.timeout"),
        ("timeout: .inf", "steps.one.timeout"),
        ("retry: {attempts: 0}", "steps.one.retry.attempts"),
        ("retry: {attempts: 2, pause: 1}", "steps.one.retry.pause"),
        ("retry: 3", "steps.one.retry"),
        ("needs: two", "steps.one.needs"),
        ("needs: [Two]", "steps.one.needs[0]"),
        ("when: true", "steps.one.when"),
        ("with_: {}", "steps.one.with_"),
    ],
)
def test_a_fault_of_a_step_has_its_field_and_line(more: str, field: str) -> None:
    """Each fault is found where it stands."""
    found = faults(f"blueprint: x\nversion: 1\nsteps:\n  one:\n    task: t\n    {more}\n")
    assert [(line, name) for line, name, _ in found] == [(6, field)]


@pytest.mark.parametrize(
    "version",
    ["0", "-1", "1.0", "true", "'1'", "1_0", "9007199254740992", "9" * 5000, "0x" + "f" * 50],
)
def test_a_version_is_an_integer_that_every_json_reader_keeps(version: str) -> None:
    """From 1 to 2**53 - 1; nothing is taken for an integer that is none."""
    found = faults(f"blueprint: x\nversion: {version}\nsteps: {{one: {{task: t}}}}\n")
    assert [(line, field) for line, field, _ in found] == [(2, "version")]


@given(json_values)
def test_from_canonical_raises_nothing_but_validation_errors(value: Any) -> None:
    """Whatever a ledger holds, it is a blueprint or a ValidationError."""
    for document in (value, {"blueprint": "a", "version": 1, "steps": {"one": value}}):
        with contextlib.suppress(ValidationError):
            Blueprint.from_canonical(document)
