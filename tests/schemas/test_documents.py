"""Files that people write: both formats hold the same, and every fault has its line and field."""

import json
import math
import os
import string
import time
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from tidegate_schemas.documents import (
    MAX_DOCUMENT_BYTES,
    Destination,
    Document,
    Duration,
    Name,
    PrincipalName,
    load,
    loads,
)
from tidegate_schemas.documents.location import MAX_DEPTH
from tidegate_schemas.errors import InvalidDocument, Problem

YAML, TOML = Path("file.yaml"), Path("file.toml")
DEEP = 100_000


class Part(Document):
    """A nested mapping."""

    name: Name
    size: int = 0


class Whole(Document):
    """A document with every shape of field."""

    title: str
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = Field(default_factory=dict[str, Part])
    wait: Duration = 0.0
    to: Destination = "a"
    who: PrincipalName = "a.b"
    names: tuple[Name, ...] = ()

    model_config = Document.model_config | {"strict": False}


class Anything(Document):
    """A document that holds any values."""

    data: Any = None


def problems(text: str, path: Path, model: type[Document] = Whole) -> list[Problem]:
    """What is wrong with a text."""
    with pytest.raises(InvalidDocument) as caught:
        loads(text, model, path)
    assert caught.value.path == path
    assert all(str(path) in line for line in str(caught.value).splitlines())
    return caught.value.problems


# Both formats hold the same

characters = st.characters(min_codepoint=32, max_codepoint=126) | st.characters(
    codec="utf-8", min_codepoint=160, exclude_characters="\u2028\u2029"
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters, max_size=20)
    | st.sampled_from(
        ["on", "no", "1:30", "2026-01-31", "~", "<<", "=", "0x10", "1_0", "null", ""]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(characters, max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list, of whatever."""
    return isinstance(value, list)


def is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a mapping, as JSON knows it."""
    return isinstance(value, dict)


def toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if is_map(value):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if is_list(value):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(json_values)
def test_json_is_yaml_and_reads_the_same(value: Any) -> None:
    """Every JSON document is a YAML document with the same values, escaped or not."""
    for ascii in (True, False):
        text = json.dumps({"data": value}, ensure_ascii=ascii, indent=1)
        assert loads(text, Anything, YAML).data == value


@given(json_values)
def test_toml_reads_the_same_as_yaml(value: Any) -> None:
    """What both formats can write means the same in both."""
    assert loads(f"data = {toml(value)}", Anything, TOML).data == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            (word, word)
            for word in ("on", "off", "yes", "no", "y", "n", "1:30", "1_000", "=", "<<")
        ],
        *[
            (word, word)
            for word in ("2026-01-31", "2026-99-99", "2026-01-31T12:00:00Z", "0b1", "+.")
        ],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        *[(word, None) for word in ("", "~", "null", "Null", "NULL")],
        *[("010", 10), ("0o10", 8), ("0x1F", 31), ("+1", 1), ("-1", -1), ("1e3", 1000.0)],
        *[(".5", 0.5), ("1.", 1.0), ("-1.5E-1", -0.15), ("1.5", 1.5)],
        *[("!!str 5", "5"), ("!!int 5", 5), ("!!float 5", 5.0), ("'5'", "5"), ('"on"', "on")],
        *[
            ("!!map {a: 1}", {"a": 1}),
            ("!!seq [1]", [1]),
            ("|\n  a\n  b\n", "a\nb\n"),
        ],
        *[
            (r'"\ud83d\ude00"', "\U0001f600"),
            ('"\\0"', "\0"),
            ("[a, [b], {c: d}]", ["a", ["b"], {"c": "d"}]),
        ],
    ],
)
def test_yaml_is_read_by_the_core_schema_of_its_version_1_2(text: str, value: Any) -> None:
    """Words, times and numbers with colons are text; only true and false are booleans."""
    found = loads(f"data: {text}", Anything, YAML).data

    assert found == value
    assert type(found) is type(value)


def test_on_is_a_key_like_any_other() -> None:
    """The YAML 1.1 habit of reading `on:` as `true:` does not bite."""
    assert loads("data: {on: 1, no: 2, y: 3}", Anything, YAML).data == {"on": 1, "no": 2, "y": 3}


def test_merge_keys_give_defaults() -> None:
    """`<<` takes one mapping or several; what is written beside it and what comes first wins."""
    text = """
    data:
      base: &base {a: 1, b: {c: 2}}
      more: &more {a: 9, d: 4}
      one: {<<: *base, a: 0}
      two: {<<: [*base, *more]}
      three:
        <<: *base
        <<: *more
      text: "<<"
      quoted: {"<<": 1}
    """
    data = loads(text, Anything, YAML).data

    assert data["one"] == {"a": 0, "b": {"c": 2}}
    assert data["two"] == data["three"] == {"a": 1, "b": {"c": 2}, "d": 4}
    assert (data["text"], data["quoted"]) == ("<<", {"<<": 1})


def test_aliases_share_no_values() -> None:
    """What an alias repeats is a copy: nobody changes one place and meets it in another."""
    data = loads("data: {a: &x [1], b: *x}", Anything, YAML).data
    assert data["a"] == data["b"]
    assert data["a"] is not data["b"]


@pytest.mark.parametrize("path", [YAML, TOML])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_mark_do_not_matter(
    tmp_path: Path, path: Path, end: str, mark: str
) -> None:
    """Files from any editor are read, and lines are counted the same."""
    sign = ":" if path == YAML else " ="
    lines = [f'{mark}title{sign} "T"', f'wait{sign} "2m"', f'to{sign} "a b"', ""]
    target = tmp_path / path
    target.write_bytes(end.join(lines).encode())
    with pytest.raises(InvalidDocument) as caught:
        load(target, Whole)
    assert [(p.line, p.field) for p in caught.value.problems] == [(3, "to")]

    target.write_bytes(end.join(lines[:2]).encode())
    assert load(target, Whole).wait == 120.0


# Where a fault stands

LINES: dict[str, tuple[Path, str, list[tuple[int, str, str]]]] = {
    "YAML, missing at the top": (YAML, "\nto: a\n", [(2, "title", "is required")]),
    "YAML, missing inside": (
        YAML,
        "title: a\nparts:\n  - name: a\n  -\n    size: 1\nby_name:\n  x:\n\n    size: 1\n",
        [(5, "parts[1].name", "is required"), (7, "by_name.x.name", "is required")],
    ),
    "YAML, unknown": (
        YAML,
        "title: a\nmore:\n  deep:\n    er: 1\nparts:\n- name: a\n  odd:\n    - 1\n",
        [(7, "parts[0].odd", "unknown field"), (2, "more", "unknown field")],
    ),
    "YAML, wrong type": (
        YAML,
        "title:\n  - a\nparts:\n  - name: a\n    size:\n\n      x\nby_name: 5\n",
        [
            (1, "title", "valid string"),
            (5, "parts[0].size", "valid integer"),
            (8, "by_name", "must be a mapping"),
        ],
    ),
    "YAML, list elements": (
        YAML,
        "title: a\nnames:\n  - a\n\n  - B\n  - [c,\n     d]\n",
        [(5, "names[1]", "1 to 63 of"), (6, "names[2]", "valid string")],
    ),
    "YAML, flow lists": (
        YAML,
        'title: a\nnames: [a,\n  "B",\n\n  c, D]\n',
        [(3, "names[1]", "1 to 63"), (5, "names[3]", "1 to 63")],
    ),
    "YAML, given twice": (
        YAML,
        'title: a\nparts:\n  - name: a\n    name:\n      b\n"title": c\n',
        [(4, "parts[0].name", "is given twice"), (6, "title", "is given twice")],
    ),
    "YAML, twice by another spelling": (
        YAML,
        'title: a\n"\\u0074itle": c\n',
        [(2, "title", "is given twice")],
    ),
    "YAML, from an alias": (
        YAML,
        "title: a\nparts:\n  - &p\n    name: A\n  - *p\n",
        [(4, "parts[0].name", "1 to 63"), (4, "parts[1].name", "1 to 63")],
    ),
    "YAML, from a merge key": (
        YAML,
        "title: a\nby_name:\n  x: &x\n    name: A\n  y:\n    <<: *x\n    size: 1\n",
        [(4, "by_name.x.name", "1 to 63"), (4, "by_name.y.name", "1 to 63")],
    ),
    "YAML, key that is no text": (
        YAML,
        "title: a\nby_name:\n  1: {name: a}\n",
        [(3, "by_name", "every key must be text")],
    ),
    "YAML, a name with control characters": (
        YAML,
        'title: a\n"\\e[31m": 1\n',
        [(2, "\\x1b[31m", "unknown field")],
    ),
    "YAML, syntax": (YAML, "title: a\nparts: [1, 2\nto: a\n", [(3, "", "expected")]),
    "YAML, tab": (YAML, "title: a\nby_name:\n\tx: 1\n", [(3, "", "'\\t'")]),
    "YAML, two documents": (YAML, "title: a\n---\ntitle: b\n", [(2, "", "another document")]),
    "YAML, forbidden character": (YAML, "title: a\nto: \0\n", [(2, "", "U+0000 is not allowed")]),
    "YAML, escape beyond Unicode": (
        YAML,
        'title: a\nto: "\\UFFFFFFFF"\n',
        [(2, "", "no character")],
    ),
    "TOML, missing at the top": (TOML, "\nto = 'a'\n", [(1, "title", "is required")]),
    "TOML, missing inside": (
        TOML,
        "title = 'a'\n[[parts]]\nname = 'a'\n\n[[parts]]\nsize = 1\n\n[by_name.x]\n\nsize = 1\n",
        [(5, "parts[1].name", "is required"), (8, "by_name.x.name", "is required")],
    ),
    "TOML, unknown": (
        TOML,
        "title = 'a'\nmore.deep.er = 1\n[[parts]]\nname = 'a'\nodd = [\n  1\n]\n",
        [(5, "parts[0].odd", "unknown field"), (2, "more", "unknown field")],
    ),
    "TOML, wrong type": (
        TOML,
        "title = [\n'a']\nby_name = 5\n[[parts]]\nname = 'a'\nsize = 'x'\n",
        [
            (1, "title", "valid string"),
            (6, "parts[0].size", "valid integer"),
            (3, "by_name", "must be a mapping"),
        ],
    ),
    "YAML, a colon in text": (
        YAML,
        "title: a\nto: ${ b ? c : d }\n",
        [(2, "", "text with a colon and a space in it stands in quotes")],
    ),
    "TOML, list elements": (
        TOML,
        "title = 'a'\nnames = [\n  'a', # ]\n\n  'B', [\n  'c'],\n]\n",
        [(5, "names[1]", "1 to 63 of"), (5, "names[2]", "valid string")],
    ),
    "TOML, inline tables": (
        TOML,
        "title = 'a'\nparts = [\n  {name = 'a', size = 1.5},\n  {name = 'B'},\n]\n"
        "by_name = {x = {name = 'C'}, 'y z' = {name = 'd', odd = 1}}\n",
        [
            (3, "parts[0].size", "valid integer"),
            (4, "parts[1].name", "1 to 63"),
            (6, "by_name.x.name", "1 to 63"),
            (6, "by_name.y z.odd", "unknown field"),
        ],
    ),
    "TOML, tables in arrays of tables": (
        TOML,
        "title = 'a'\n[[odd]]\n[[odd.er]]\n[[odd]]\n[odd.est]\nx = nan\n",
        [(6, "odd[1].est.x", "not a finite number")],
    ),
    "TOML, quoted and dotted keys": (
        TOML,
        'title = \'a\'\n"by_name" . \'x.y\' . "n\\u0061me" = "A"\n',
        [(2, "by_name.x.y.name", "1 to 63")],
    ),
    "TOML, text that looks like keys": (
        TOML,
        'title = """\nto = 1\n[by_name]\n\\""" \n"""\n'
        "who = '''\n[[parts]]'''\nto = \"a b\" # to = 1\n",
        [(8, "to", "destination"), (6, "who", "write it as team.name")],
    ),
    "TOML, given twice": (TOML, "title = 'a'\ntitle = 'b'\n", [(2, "", "overwrite")]),
    "TOML, table given twice": (TOML, "[by_name]\n[by_name]\n", [(2, "", "twice")]),
    "TOML, syntax": (TOML, "title = 'a'\nto =\n", [(2, "", "Invalid value")]),
    "TOML, end in the middle": (TOML, "title = 'a'\nto = [\n\n", [(4, "", "")]),
    "TOML, date": (TOML, "title = 2026-01-31\n", [(1, "title", "a date has no JSON form")]),
    "TOML, huge number": (TOML, "\ntitle = 0x" + "f" * 5000, [(2, "title", "is over 64 bits")]),
}


@pytest.mark.parametrize(("path", "text", "expected"), LINES.values(), ids=LINES.keys())
def test_a_fault_has_the_line_of_its_key(
    path: Path, text: str, expected: list[tuple[int, str, str]]
) -> None:
    """Line and field are those where somebody must write something else."""
    found = problems(text, path)

    assert sorted((p.line, p.field) for p in found) == sorted((e[0], e[1]) for e in expected)
    for line, field, words in expected:
        message = next(p.message for p in found if (p.line, p.field) == (line, field))
        assert words in message


def spread(value: Any, path: Path, line: int = 1) -> tuple[str, int | None]:
    """A value in a file format, each list element on a line of its own; the line of NaN."""
    if isinstance(value, float) and math.isnan(value):
        return ".nan" if path == YAML else "nan", line
    found: int | None = None
    if is_list(value):
        text = "["
        for item in value:
            text += "\n" if len(text) % 2 else "\n\n"
            inner, here = spread(item, path, line + text.count("\n"))
            text += f"{inner},"
            found = here or found
        return f"{text}]", found
    if is_map(value):
        pairs: list[str] = []
        above = line
        for name, item in value.items():
            inner, here = spread(item, path, above)
            pairs.append(
                f"{json.dumps(name, ensure_ascii=False)} {':' if path == YAML else '='} {inner}"
            )
            above += pairs[-1].count("\n")
            found = here or found
        return "{" + ", ".join(pairs) + "}", found
    return json.dumps(value, ensure_ascii=False), None


def planted(value: Any, random: Any) -> Any:
    """The value with NaN in one place of it."""
    if is_list(value) and value:
        index = random.randrange(len(value))
        return [*value[:index], planted(value[index], random), *value[index + 1 :]]
    if is_map(value) and value:
        name = random.choice(sorted(value))
        return value | {name: planted(value[name], random)}
    return math.nan


@pytest.mark.parametrize("path", [YAML, TOML])
@given(value=json_values, random=st.randoms(use_true_random=False))
def test_a_fault_anywhere_in_a_document_has_its_line(path: Path, value: Any, random: Any) -> None:
    """However lists and mappings nest, the line of the one fault is found."""
    text, line = spread(planted(value, random), path, 2)
    sign = ":" if path == YAML else "="
    found = problems(f"# data\ndata {sign} {text}\n", path, Anything)

    assert [(p.line, p.message) for p in found] == [(line, "is not a finite number")]


def test_a_message_is_one_line_for_each_fault() -> None:
    """The text of the error is file, line, field and what is wrong."""
    with pytest.raises(InvalidDocument) as caught:
        loads("to: a b\nodd: 1\n", Whole, Path("agents/ada.yaml"))

    assert str(caught.value).splitlines()[0] == "agents/ada.yaml:1: title: is required"
    assert str(caught.value).splitlines()[2] == "agents/ada.yaml:2: odd: unknown field"


# Hostile text

BOMB = "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "".join(
    f"{b}: &{b}\n  <<: [{','.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
HOSTILE: dict[str, tuple[Path, str]] = {
    **{
        f"YAML, {name}": (YAML, text)
        for name, text in {
            "empty": "",
            "comment": "# title: a",
            "end of document": "...",
            "null": "null",
            "text": "title",
            "number": "5",
            "list": "- title: a",
            "object tag": "title: !!python/object/apply:os.system [ls]",
            "name tag": "title: !!python/name:os.system",
            "tag of its own": "title: !mine a",
            "tag at the top": "!!python/dict {title: a}",
            "set": "title: !!set {a}",
            "ordered map": "title: !!omap [a: 1]",
            "binary": "title: !!binary aGk=",
            "timestamp": "title: !!timestamp foo",
            "timestamp with an absurd offset": "title: !!timestamp 2001-01-01T00:00:00+99:99",
            "timestamp with an absurd year": "title: !!timestamp 99999-01-01",
            "bool that is none": "title: !!bool maybe",
            "int that is none": 'title: !!int ""',
            "float that is none": "title: !!float x",
            "null that is none": "title: !!null x",
            "list as text": "title: !!str [a]",
            "mapping as list": "title: !!seq {a: 1}",
            "number as key": "title: a\n1: b",
            "null as key": "title: a\n~: b",
            "list as key": "title: a\n? [a]\n: b",
            "mapping as key": "title: a\n? {a: b}\n: b",
            "itself as key": "title: a\n? &x [*x]\n: b",
            "itself": "title: &x [*x]",
            "itself merged": "title: &x {<<: *x}",
            "merge of text": "title: {<<: a}",
            "merge of numbers": "title: {<<: [1]}",
            "undefined alias": "title: *x",
            "alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n" + BOMB,
            "merge bomb": "a: &a {x: 1}\n" + MERGES,
            "text bomb": f'title: &a "{"a" * 9999}"\nnames: [{",".join(["*a"] * 9999)}]',
            "deep flow lists": "title: " + "[" * DEEP,
            "deep flow mappings": "title: " + "{a: " * DEEP,
            "deep blocks": "- " * DEEP,
            "deep complex keys": "? " * DEEP,
            "just too deep": "title: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
            "huge int": "title: " + "9" * 5000,
            "huge hex": "title: 0x" + "f" * 5000,
            "huge octal": "title: 0o" + "7" * 5000,
            "huge size": "title: a\nparts: [{name: a, size: 99999999999999999999}]",
            "huge exponent": "title: a\nwait: 1e999999",
            "NaN": "title: a\nwait: .nan",
            "infinity": "title: a\nwait: -.Inf",
            "half a surrogate pair": 'title: "\\ud800"',
            "half a surrogate pair as key": 'title: a\n"\\udc00": b',
            "half a surrogate pair as it is": "title: \ud800",
            "escape beyond Unicode": 'title: "\\U00110000"',
            "escape far beyond Unicode": 'title: "\\UFFFFFFFF"',
            "NUL": "title: \0",
            "bell": "title: \a",
            "line end of other times": "title: a\x85b",
            "line separator": 'title: "a \u2028 b"',
            "directive": "%YAML 9.9\n---\ntitle: 1",
            "byte order mark inside": "title: a\n\ufeffto: b",
            "1 MiB and more": "title: " + "a" * 2**20,
            "look-alike field": "titl\u0435: a",
        }.items()
    },
    **{
        f"TOML, {name}": (TOML, text)
        for name, text in {
            "empty": "",
            "comment": "# title = 'a'",
            "value only": "title",
            "huge int": "title = " + "9" * 5000,
            "huge negative": "title = -" + "9" * 5000,
            "huge hex": "title = 0x" + "f" * 5000,
            "huge exponent": "wait = 1e999999",
            "NaN": "wait = nan",
            "infinity": "wait = -inf",
            "absurd date": "title = 9999-99-99",
            "absurd offset": "title = 2026-01-31T12:00:00+99:99",
            "date": "title = 2026-01-31",
            "time": "title = 12:00:00",
            "date and time": "title = 2026-01-31T12:00:00Z",
            "deep lists": "title = " + "[" * DEEP,
            "deep tables": "title = " + "{a=" * DEEP,
            "long key": "title" + ".a" * DEEP + " = 1",
            "long quoted key": "title" + '."a \\" b"' * DEEP + " = 1",
            "long header": "[title" + ".a" * DEEP + "]",
            "just too deep": "title = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
            "half a surrogate pair": 'title = "\\ud800"',
            "half a surrogate pair as it is": 'title = "\ud800"',
            "half a surrogate pair as key": '"\ud800" = 1',
            "escape beyond Unicode": 'title = "\\UFFFFFFFF"',
            "NUL": "title = '\0'",
            "not closed": 'title = """',
            "1 MiB and more": f"title = '{'a' * 2**20}'",
            "look-alike field": "titl\u0435 = 'a'",
        }.items()
    },
}


@pytest.mark.parametrize(("path", "text"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_an_invalid_document(path: Path, text: str) -> None:
    """Each is refused in a moment, by messages that any terminal can show."""
    begin = time.process_time()
    found = problems(text, path)

    assert time.process_time() - begin < 10
    assert found
    for problem in found:
        assert problem.message.isprintable()
        assert problem.field.isprintable()


def test_a_document_at_the_limits_is_read() -> None:
    """The deepest nesting and the longest text pass."""
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert loads(f"data: {deep}", Anything, YAML).data == json.loads(deep)
    assert loads(f"data = {deep}", Anything, TOML).data == json.loads(deep)
    long = "a" * (MAX_DOCUMENT_BYTES - 9)
    assert loads(f"data: {long}", Anything, YAML).data == long
    assert loads(f"data = '{long[:-1]}'", Anything, TOML).data == long[:-1]


def test_many_aliases_are_read_as_long_as_the_whole_is_small() -> None:
    """Aliases are no fault in themselves."""
    text = "data:\n- &a {x: [1, 2, 3]}\n" + "- *a\n" * 10_000
    assert len(loads(text, Anything, YAML).data) == 10_001


shreds = st.text(
    st.sampled_from("abt0159.:=-_#&*!|>?%@`'\"[]{},<~ \t\n\\\0\x85\u2028\ufeff\u0435")
    | st.sampled_from(string.printable),
    max_size=60,
)


@settings(max_examples=150)
@given(st.sampled_from([YAML, TOML]), shreds | st.text(max_size=60))
def test_random_text_never_leaks_another_error(path: Path, text: str) -> None:
    """Noise is a document or an InvalidDocument, never another exception."""
    for model in (Whole, Anything):
        try:
            loads(text, model, path)
        except InvalidDocument as error:
            assert error.problems
            assert all(p.message.isprintable() and p.field.isprintable() for p in error.problems)


@settings(max_examples=150)
@given(
    st.sampled_from([YAML, TOML]),
    json_values,
    st.integers(0, 200),
    st.integers(0, 5),
    shreds.map(lambda text: text[:5]),
)
def test_damaged_documents_never_leak_another_error(
    path: Path, value: Any, at: int, length: int, piece: str
) -> None:
    """A document with a piece cut out and put in is read or an InvalidDocument."""
    text = f"data {':' if path == YAML else '='} {spread(value, path)[0]}\n"
    try:
        loads(text[:at] + piece + text[at + length :], Anything, path)
    except InvalidDocument as error:
        assert error.problems


# Files


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The system's own words say what is wrong with the path."""
    with pytest.raises(InvalidDocument, match=r"none\.yaml: No such file or directory"):
        load(tmp_path / "none.yaml", Whole)
    with pytest.raises(InvalidDocument, match=r": Is a directory"):
        load(tmp_path, Whole)
    with pytest.raises(InvalidDocument, match=r"null byte"):
        load(Path("a\0b.yaml"), Whole)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidDocument, match=r": Not a directory"):
        load(tmp_path / "file" / "a.yaml", Whole)
    with pytest.raises(InvalidDocument, match=r"name too long"):
        load(tmp_path / ("a" * 5000), Whole)


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing permission is an InvalidDocument as well."""
    path = tmp_path / "secret.yaml"
    path.write_text("title: a")
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidDocument, match=r"secret\.yaml: Permission denied"):
        load(path, Whole)


@pytest.mark.parametrize("name", ["a.yaml", "a.toml"])
def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    """Bytes that are no UTF-8 have a line too; UTF-16 is no text here."""
    path = tmp_path / name
    path.write_bytes(b"# one\n# two\n# \xff\n")
    with pytest.raises(InvalidDocument, match=rf"{name}:3: not UTF-8"):
        load(path, Whole)
    path.write_bytes("title: a".encode("utf-16"))
    with pytest.raises(InvalidDocument, match=rf"{name}:1: not UTF-8"):
        load(path, Whole)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    """No more than the limit is read, whatever the size that the system gives."""
    with pytest.raises(InvalidDocument, match=r"/dev/zero: over 1048576 bytes"):
        load(Path("/dev/zero"), Whole)


def test_an_empty_file_says_what_is_missing(tmp_path: Path) -> None:
    """Neither format takes an empty file for a document."""
    (tmp_path / "a.yaml").touch()
    (tmp_path / "a.toml").touch()
    with pytest.raises(InvalidDocument, match=r"a\.yaml:1: is empty"):
        load(tmp_path / "a.yaml", Whole)
    with pytest.raises(InvalidDocument, match=r"a\.toml:1: title: is required"):
        load(tmp_path / "a.toml", Whole)


@pytest.mark.parametrize("name", ["a.toml", "a.TOML"])
def test_the_suffix_tells_the_format(tmp_path: Path, name: str) -> None:
    """`.toml` in any case is TOML; everything else is YAML, of which JSON is a part."""
    (tmp_path / name).write_text("title = 'a'")
    (tmp_path / "a.json").write_text('{"title": "a"}')
    assert load(tmp_path / name, Whole) == load(tmp_path / "a.json", Whole) == Whole(title="a")


# Types of fields


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("250ms", 0.25), ("5", 5.0), ("0.5", 0.5), ('"1d"', 86_400.0), ("0", 0.0)],
)
def test_a_duration_is_text_with_a_unit_or_seconds(text: str, seconds: float) -> None:
    """Both ways of writing a duration give seconds."""
    assert loads(f"title: a\nwait: {text}", Whole, YAML).wait == seconds


@pytest.mark.parametrize(
    "text", ["-1", "-0.5", "1:30", "soon", '"5"', "[5]", "~", "1e300", "100000d"]
)
def test_a_duration_is_never_negative_endless_or_guessed(text: str) -> None:
    """What is no duration from 0 to a hundred years is refused at its line."""
    assert [(p.line, p.field) for p in problems(f"title: a\nwait: {text}", YAML)] == [(2, "wait")]


@pytest.mark.parametrize("name", ["A", "a_b", "a.b", "", "a" * 64, "*", "\u0430", '"a\\n"'])
@pytest.mark.parametrize("field", ["names[0]", "who"])
def test_names_are_those_of_the_subject_grammar(field: str, name: str) -> None:
    """What no principal can be called, no file can call one."""
    text = f"title: a\nnames: [{name!r}]" if field == "names[0]" else f"title: a\nwho: {name!r}"
    if (field, name) == ("who", "a.b"):
        assert loads(text, Whole, YAML).who == "a.b"
    else:
        assert field in [p.field for p in problems(text, YAML)]


def test_a_document_cannot_be_changed() -> None:
    """Documents are frozen: what was checked stays as it was."""
    whole = Whole(title="a")
    with pytest.raises(ValueError, match="frozen"):
        whole.title = "b"  # pyright: ignore[reportAttributeAccessIssue]  # the point
