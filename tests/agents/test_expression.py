"""CEL expressions and templates: values in, values out, one kind of error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_agents.cel import cel
from tidegate_agents.expression import (
    MAX_DEPTH,
    MAX_LENGTH,
    Scope,
    evaluate,
    problems,
    render,
    visible,
)
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.errors import InvalidExpression

LETTERS = {letter: number for number, letter in enumerate("gfedcbahijklm")}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc$_{}"), inner),
    max_leaves=12,
)


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def blueprint(steps: dict[str, Any], output: str | None = None) -> Blueprint:
    """A blueprint of steps whose task does not matter."""
    with_task = {name: {"task": "do.it", **step} for name, step in steps.items()}
    return Blueprint.model_validate(
        {"blueprint": "b", "version": 1, "steps": with_task, "output": output}
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2", 3),
        ("input.n > 2 && !input.flag", True),
        ("'a' + \"b\"", "ab"),
        ("[1, 2].map(x, x * 2)", [2, 4]),
        ("has(input.nope) ? 1 : null", None),
        ("{'a': [1.5, {'b': null}]}", {"a": [1.5, {"b": None}]}),
        ("string(timestamp('2026-01-31T12:00:00Z'))", "2026-01-31T12:00:00+00:00"),
    ],
)
def test_an_expression_gives_a_json_value(text: str, value: Any) -> None:
    """Arithmetic, logic, macros and literals give JSON with its types."""
    found = evaluate(text, {"input": {"n": 3, "flag": False}})

    assert (value, type(value)) == (found, type(found))


@given(json_values)
def test_a_json_value_passes_unchanged(value: Any) -> None:
    """What is JSON goes into an expression and comes out as it was, and so it does in a list."""
    assert value == evaluate("input", {"input": value})
    assert [value] == evaluate("[input].filter(x, true)", {"input": value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        "1 +",
        "'open",
        "nope",
        "nope.x",
        "nope()",
        "input.nope",
        "input['nope']",
        "[1][5]",
        "1 / 0",
        "5 % 0",
        "9223372036854775807 + 1",
        "9223372036854775808",
        "1 + 1.5",
        "'a' + 1",
        "1 && true",
        "int('x')",
        "'a'.matches('[')",
        "timestamp('10000-01-01T00:00:00Z')",
        "\x00",
        "message{}",
        "(" * 2000,
        "true ? " * 500,
    ],
)
def test_what_does_not_evaluate_is_an_invalid_expression(text: str) -> None:
    """Whatever the library raises, the caller gets one error that names the expression."""
    with pytest.raises(InvalidExpression) as caught:
        evaluate(text, {"input": {}})

    assert text == caught.value.expression
    assert caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "b'bytes'",
        "timestamp('2026-01-31T12:00:00Z')",
        "duration('1h')",
        "1.0 / 0.0",
        "0.0 / 0.0",
        "[double('NaN')]",
        "{'a': {'b': b'bytes'}}",
        "{1: 2}",
        "optional.of(1)",
    ],
)
def test_a_value_that_is_no_json_is_an_invalid_expression(text: str) -> None:
    """Bytes, times, optionals, NaN, infinity and keys that are no text do not come out."""
    with pytest.raises(InvalidExpression, match="no JSON"):
        evaluate(text, {})


@given(st.text("inputabx.()[]{}'\"`$1209+-*/%<>=!&|?:, \\\n"))
def test_any_text_gives_a_value_or_an_invalid_expression(text: str) -> None:
    """No expression raises anything else."""
    for attempt in (evaluate, render):
        with suppress(InvalidExpression):
            attempt(text, {"input": {"a": [1, "b"]}})


def test_a_panic_of_the_library_is_an_invalid_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Rust panic, which is no Exception, is one more fault of the expression."""

    class PanicException(BaseException):
        """Named as pyo3 names it."""

    def panic(_: str) -> NoReturn:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(cel, "compile", panic)

    with pytest.raises(InvalidExpression, match="index out of bounds"):
        evaluate("'panics'", {})


def test_an_interrupt_is_no_fault_of_the_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during an evaluation stays what it is."""

    def interrupt(_: str) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cel, "compile", interrupt)

    with pytest.raises(KeyboardInterrupt):
        evaluate("'interrupted'", {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("input.map(k, k)", sorted(LETTERS)),
        ("input .\n map\t( k, k)", sorted(LETTERS)),
        ("input.//.map(\nfilter(k, true)", sorted(LETTERS)),
        ("input.map(k, input[k] > 5, k)", sorted(k for k, v in LETTERS.items() if v > 5)),
        ("[input].map(m, m.map(k, k))", [sorted(LETTERS)]),
        ("input.filter(k, k < 'd').map(k, input[k])", [6, 5, 4]),
        ("{'b': 1, 'a': 2}.map(k, k)[0]", "a"),
        ("['.map(', r'\\.map(', '''a\n'.map(''', \"\\\".map(\"].map(s, size(s))", [5, 6, 8, 6]),
    ],
)
def test_macros_see_the_keys_of_a_map_in_order(text: str, value: Any) -> None:
    """A macro over a map gives the same list each time, though the library shuffles maps."""
    assert value == evaluate(text, {"input": LETTERS})


def test_one_element_does_not_decide_by_chance() -> None:
    """A macro that stops at the first hit, or at the first fault, stops at the same one."""
    variables = {"input": {"a": 1, "b": "text", "c": 3}}

    assert evaluate("input.exists(k, input[k] > 0)", variables) is True
    with pytest.raises(InvalidExpression):
        evaluate("input.all(k, input[k] > 0)", variables)


def test_the_maps_of_a_result_are_sorted() -> None:
    """The same value is the same text."""
    assert sorted(LETTERS) == list(evaluate("[input][0]", {"input": LETTERS}))


def test_an_expression_has_a_longest_length() -> None:
    """A sum so long that the library would overflow the stack is refused before."""
    longest = "1" + "+1" * ((MAX_LENGTH - 1) // 2)

    assert evaluate(longest, {}) == MAX_LENGTH // 2
    with pytest.raises(InvalidExpression, match="characters"):
        evaluate(longest + "+1" * 20_000, {})


def test_values_have_a_greatest_depth() -> None:
    """Values so deep that the library would overflow the stack are refused before."""
    deepest, deeper, abyss = nested(MAX_DEPTH), nested(MAX_DEPTH + 1), nested(50_000)

    assert deepest == evaluate("input", {"input": deepest})
    for value in (deeper, abyss):
        with pytest.raises(InvalidExpression, match="deeper"):
            evaluate("size(input)", {"input": value})
        with pytest.raises(InvalidExpression, match="deeper"):
            render(value, {})
    with pytest.raises(InvalidExpression, match="deeper"):
        evaluate("[input]", {"input": deepest})
    assert evaluate("1", {"input": abyss}) == 1, "what is not named is not looked at"


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain $ { } text", "plain $ { } text"),
        ("${ input.n }", 3),
        ("${input.list}", [1, "a"]),
        ("${ input.nothing }", None),
        (" ${ input.n }", " 3"),
        ("n=${ input.n }, s=${ input.s }!", "n=3, s=text!"),
        ("${ input.list }${ input.nothing }", '[1,"a"]null'),
        ("${ {'a': {'b': 1.0}} } ", '{"a":{"b":1.0}} '),
        ("${ '}' + \"}\" }", "}}"),
        ("${ r'\\' + '''}''' }", "\\}"),
        ("$${ input.n }", "${ input.n }"),
        ("$$${ input.n }", "$${ input.n }"),
        ("$${${ input.n }", "${3"),
        ("${ '$${' }", "$${"),
        ({"k": ["${ input.n }", {"${ input.n }": True}], "n": 1.5}, None),
    ],
)
def test_a_template_is_rendered(template: Any, value: Any) -> None:
    """A whole hole keeps its type, an embedded one is text, `$${` is no hole, keys are keys."""
    if isinstance(template, dict):
        value = {"k": [3, {"${ input.n }": True}], "n": 1.5}

    assert value == render(
        template, {"input": {"n": 3, "s": "text", "list": [1, "a"], "nothing": None}}
    )


@pytest.mark.parametrize("template", ["${", "a ${ input", "${ {'a': 1 }", "${ input // }", "${ }"])
def test_a_hole_that_is_never_closed_is_an_invalid_expression(template: str) -> None:
    """So is an empty one."""
    with pytest.raises(InvalidExpression):
        render(template, {"input": 1})


@given(json_values)
def test_a_template_without_holes_is_itself(template: Any) -> None:
    """Nothing but `${ … }` and `$${` means anything."""
    try:
        assert template == render(template, {})
    except InvalidExpression:
        assert "${" in repr(template)


@given(st.lists(json_values, max_size=5), json_values)
def test_a_scope_gives_what_fresh_evaluations_give(items: list[Any], value: Any) -> None:
    """What a scope keeps from one element to the next changes no value."""
    variables = {"input": value, "run": {"id": "r"}}
    template = ["${ input }", "${ item }", "${ [input, item][index % 2] }", "${ index }"]
    scope = Scope(variables)
    assert value == scope.evaluate("input")

    for index, item in enumerate(items):
        scope.bind({"index": index, "item": item})

        assert render(template, {**variables, "index": index, "item": item}) == scope.render(
            template
        )


def test_truth_and_elements_have_their_types() -> None:
    """A `when` is true or false, a `foreach` is a list; nothing is taken for it."""
    scope = Scope({"input": {"n": 1}})

    assert scope.truth("input.n == 1") is True
    assert scope.elements("[input.n]") == [1]
    for text in ("input.n", "null", "'true'"):
        with pytest.raises(InvalidExpression, match="true or false"):
            scope.truth(text)
    for text in ("input", "'list'", "null"):
        with pytest.raises(InvalidExpression, match="list"):
            scope.elements(text)


def test_a_step_sees_what_it_needs_and_what_that_needs() -> None:
    """Needs are followed all the way up."""
    plan = blueprint({"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}, "d": {}})

    assert [set[str](), {"a"}, {"a", "b"}, set[str]()] == [visible(plan, n) for n in "abcd"]


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ({"when": "1 +"}, "steps.b.when"),
        ({"foreach": "(("}, "steps.b.foreach"),
        ({"with": {"x": ["ok", "${ ! }"]}}, "steps.b.with.x[1]"),
        ({"with": {"x": "' ${ '"}}, "steps.b.with.x"),
        ({"when": "inputs.x"}, "steps.b.when"),
        ({"with": {"x": "${ item }"}}, "steps.b.with.x"),
        ({"foreach": "[item]"}, "steps.b.foreach"),
        ({"when": "steps.c.output"}, "steps.b.when"),
        ({"when": "steps.nope.output"}, "steps.b.when"),
        ({"when": "steps.b.output"}, "steps.b.when"),
        ({"when": "steps [\n'c'].output"}, "steps.b.when"),
        ({"with": {"x": "it is ${ size(steps.c.output) }"}}, "steps.b.with.x"),
    ],
)
def test_problems_of_a_blueprint_are_named(step: dict[str, Any], field: str) -> None:
    """Faulty syntax, unknown names, and steps that may not have ended are found before a run."""
    plan = blueprint({"a": {}, "b": {"needs": ["a"], **step}, "c": {}})

    assert [field] == [problem.field for problem in problems(plan)]


def test_the_output_may_name_every_step_and_no_other() -> None:
    """It is evaluated when all have ended."""
    assert problems(blueprint({"a": {}, "b": {}}, "steps.a.output + steps.b.output")) == []
    assert [p.field for p in problems(blueprint({"a": {}}, "steps.b.output"))] == ["output"]


def test_a_sound_blueprint_has_no_problems() -> None:
    """Names of macros, types, fields called `steps`, strings and comments raise no alarm."""
    plan = blueprint(
        {
            "a": {"with": {"x": "${ input.steps.z } // ${ event.type } $${ nope }"}},
            "b": {
                "needs": ["a"],
                "when": "type(input) == map && has(steps.a.output) && 'steps.c' != run.id // nope",
                "foreach": "steps['a'].output.filter(x, x.all(steps, steps.q > 1))",
                "with": {
                    "z": "${ steps.exists(s, s == 'a') }",
                    "y": "${ {'i': index, 'o': item.map(t, t + item[0])} }",
                },
            },
        }
    )

    assert problems(plan) == []


@pytest.mark.parametrize(
    ("text", "fits", "too_long"),
    [
        ("size(input.map(x, x + 1))", 4_000, 6_000),
        ("size(input.filter(x, x > 0))", 4_000, 6_000),
        ("input.all(x, x == 1)", 120_000, 200_001),
        ("input.exists(x, x == 2)", 120_000, 200_001),
        ("input.all(x, input.exists(y, y == x))", 400, 500),
        ("size(input.map(x, size(input.map(y, x + y))))", 100, 300),
    ],
)
def test_nobody_keeps_the_evaluator_busy_with_a_long_list(
    text: str, fits: int, too_long: int
) -> None:
    """What a list may cost is bounded, and its sender is told by the end of the run."""
    evaluate(text, {"input": [1] * fits})
    with pytest.raises(InvalidExpression, match="too long to be walked over"):
        evaluate(text, {"input": [1] * too_long})


def test_each_evaluation_has_an_effort_of_its_own() -> None:
    """A long step does not take from the next one."""
    scope = Scope({"input": [1] * 120_000})
    for number in range(5):
        assert scope.evaluate(f"input.all(x, x != {number + 2})")
