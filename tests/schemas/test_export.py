"""JSON Schemas that agree with the readers, and the names that the package gives out."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TypeGuard

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tidegate_schemas
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import parse_duration
from tidegate_schemas.documents import Document
from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.errors import InvalidInput, InvalidName
from tidegate_schemas.export import FORMATS, json_schema
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Ingress, Reason, Record, Why, decode_record, encode_record
from tidegate_schemas.settings import Settings
from tidegate_schemas.subjects import Kind, Principal, Verdict, check_destination

NOTES = {"$schema", "$defs", "title", "description", "default"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether it is a list, of whatever."""
    return isinstance(value, list)


def is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a mapping, as JSON knows it."""
    return isinstance(value, dict)


def breaches(
    schema: dict[str, Any], value: Any, root: dict[str, Any], at: str = "$"
) -> Iterator[str]:
    """Where a value breaks a schema: draft 2020-12, as much of it as the exports use."""
    for word, rule in schema.items():
        match word:
            case "$ref":
                assert rule.startswith("#/$defs/"), rule
                yield from breaches(root["$defs"][rule.removeprefix("#/$defs/")], value, root, at)
            case "anyOf":
                if all(list(breaches(option, value, root, at)) for option in rule):
                    yield f"{at}: anyOf"
            case "type":
                wrong = not isinstance(value, TYPES[rule])
                if wrong or (isinstance(value, bool) and rule != "boolean"):
                    yield f"{at}: type"
            case "enum":
                if value not in rule:
                    yield f"{at}: enum"
            case "required" if is_map(value):
                yield from (f"{at}.{name}: required" for name in rule if name not in value)
            case "properties" if is_map(value):
                for name in rule.keys() & value.keys():
                    yield from breaches(rule[name], value[name], root, f"{at}.{name}")
            case "patternProperties" if is_map(value):
                for pattern, inner in rule.items():
                    for name in value:
                        if re.search(pattern, name):
                            yield from breaches(inner, value[name], root, f"{at}.{name}")
            case "additionalProperties" if is_map(value):
                known = schema.get("properties", {})
                others = [name for name in value if name not in known]
                if rule is False:
                    yield from (f"{at}.{name}: unknown" for name in others)
                elif is_map(rule):
                    for name in others:
                        yield from breaches(rule, value[name], root, f"{at}.{name}")
            case "items" if is_list(value):
                for index, item in enumerate(value):
                    yield from breaches(rule, item, root, f"{at}[{index}]")
            case "pattern" if isinstance(value, str):
                if not re.search(rule, value):
                    yield f"{at}: pattern"
            case "minimum" | "maximum" if isinstance(value, int | float):
                if value < rule if word == "minimum" else value > rule:
                    yield f"{at}: {word}"
            case "minLength" | "maxLength" if isinstance(value, str):
                if len(value) < rule if word == "minLength" else len(value) > rule:
                    yield f"{at}: {word}"
            case "minProperties" | "maxProperties" if is_map(value):
                if len(value) < rule if word == "minProperties" else len(value) > rule:
                    yield f"{at}: {word}"
            case _:
                pass


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema."""
    if not is_map(value):
        return
    yield value
    for word, rule in value.items():
        if word in {"properties", "patternProperties", "$defs"}:
            for inner in rule.values():
                yield from schemas(inner)
        elif word in {"items", "additionalProperties"}:
            yield from schemas(rule)
        elif word == "anyOf":
            for inner in rule:
                yield from schemas(inner)


ENVELOPE = Envelope.new(
    "repo.commit",
    {"any": ["thing", 1, None]},
    now=0,
    kind="task",
    to="repo.read",
    subject="s",
    correlationid="c",
    causationid="c",
    runid="r",
    stepid="s",
    attempt=1,
    traceparent="t",
    tracestate="t",
    dataclassification="public",
    expirytime="2026-01-31T12:00:00Z",
    onbehalfof="research.ada",
    costs="usd:0.02",
)
RECORD = Record(
    v=1,
    log="tidegate/0",
    seq=1,
    time="2026-01-31T12:00:00.000000000Z",
    epoch=1,
    ingress=Ingress(1, 0, "2026-01-31T12:00:00.000000000Z"),
    by="research.ada",
    kind=Kind.TASK,
    to="repo.read",
    verdict=Verdict.DUPLICATE,
    why=Why(("p",), Reason.REPEATED, "sha256:0", ("log",), {"a": [1]}),
    first=1,
    envelope=msgspec.Raw(encode(ENVELOPE)),
    raw="aGk=",
)
STEP: dict[str, Any] = {"task": "repo.read"}
WEBHOOK: dict[str, Any] = {"verify": "github", "secret_env": "SECRET", "principal": "outside.hooks"}
VALID: dict[str, list[Any]] = {
    "envelope": [
        json.loads(encode(ENVELOPE)),
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"},
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "to": None, "data": None},
    ],
    "record": [
        json.loads(encode_record(RECORD)),
        json.loads(
            encode_record(msgspec.structs.replace(RECORD, envelope=msgspec.UNSET, first=None))
        ),
    ],
    "blueprint": [
        {"blueprint": "review", "version": 1, "steps": {"one": STEP}},
        Blueprint.model_validate(
            {
                "blueprint": "review",
                "version": 1,
                "on": {"event": "a"},
                "steps": {
                    "one": STEP | {"with": {"a": [1]}, "retry": {"attempts": 2, "delay": "1s"}},
                    "two": STEP
                    | {"needs": ["one"], "when": "true", "foreach": "[1]", "timeout": "5m"},
                },
            }
        ).canonical,
    ],
    "manifest": [
        {
            "team": "research",
            "name": "ada",
            "version": "1",
            "owner": "ada",
            "run": "a.b:c",
            "capabilities": ["repo.read"],
            "lease": "30s",
            "drain": 1.5,
        }
    ],
    "settings": [
        {"project": "demo"},
        Settings(project="demo", publishers=("ops.deploy",)).model_dump(mode="json"),
        {"project": "demo", "edge": {"rate": "100/1s", "webhooks": {"github": WEBHOOK}}},
    ],
}
INVALID: dict[str, list[Any]] = {
    "envelope": [
        None,
        [],
        {},
        VALID["envelope"][1] | {"sender": "ada"},
        VALID["envelope"][1] | {"id": ""},
        VALID["envelope"][1] | {"attempt": 0},
        VALID["envelope"][1] | {"kind": "unknown"},
        VALID["envelope"][1] | {"source": "a" * 1025},
        VALID["envelope"][1] | {"data_base64": 5},
    ],
    "record": [
        {},
        VALID["record"][0] | {"seq": 0},
        VALID["record"][0] | {"kind": "chat"},
        VALID["record"][0] | {"verdict": None},
        VALID["record"][0] | {"in": {"seq": 1}},
        VALID["record"][0] | {"ingress": {}},
    ],
    "blueprint": [
        {},
        VALID["blueprint"][0] | {"steps": {}},
        VALID["blueprint"][0] | {"version": 0},
        VALID["blueprint"][0] | {"with": {}},
        VALID["blueprint"][0] | {"steps": {"one": STEP | {"with_": {}}}},
        VALID["blueprint"][0] | {"steps": {"one": STEP | {"timeout": "soon"}}},
        VALID["blueprint"][0] | {"steps": {"one": STEP | {"timeout": -1}}},
        VALID["blueprint"][0] | {"steps": {"one": {"task": "a b"}}},
    ],
    "manifest": [
        {},
        VALID["manifest"][0] | {"team": "Research"},
        VALID["manifest"][0] | {"capabilities": ["a b"]},
        VALID["manifest"][0] | {"concurrency": 0},
        VALID["manifest"][0] | {"lease": "30 s"},
    ],
    "settings": [
        {},
        {"project": "demo", "publishers": ["ops"]},
        {"project": "demo", "server": {"port": 65536}},
        {"project": "demo", "gateway": {"dedupe_window": "-1s"}},
        {"project": "demo", "edge": {"rate": "often"}},
        {"project": "demo", "edge": {"webhooks": {"a": WEBHOOK | {"verify": "none"}}}},
        {"project": "demo", "edge": {"webhooks": {"a": WEBHOOK | {"principal": "web"}}}},
        {"project": "demo", "edge": {"webhooks": {"a": WEBHOOK | {"event": {"id": ""}}}}},
    ],
}


def accepts(name: str, value: Any) -> bool:
    """Whether the reader of the format takes a value."""
    payload = json.dumps(value, separators=(",", ":")).encode()
    models: dict[str, type[Document]] = {
        "blueprint": Blueprint,
        "manifest": Manifest,
        "settings": Settings,
    }
    try:
        if name == "envelope":
            decode(payload)
        elif name == "record":
            decode_record(payload)
        else:
            models[name].model_validate(value)
    except (ValueError, InvalidInput):
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_a_schema_uses_only_words_that_this_test_understands(name: str) -> None:
    """It is plain JSON of draft 2020-12, all references resolve, what is required is a property."""
    schema = json_schema(name)

    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    understood = NOTES | {
        *("$ref", "anyOf", "type", "enum", "required", "properties", "patternProperties", "items"),
        *("additionalProperties", "pattern", "minimum", "maximum", "minLength", "maxLength"),
        *("minProperties", "maxProperties"),
    }
    for inner in schemas(schema):
        assert set(inner) <= understood
        assert set(inner.get("required", ())) <= set(inner.get("properties", ()))
        assert inner.get("type", "null") in TYPES
        if "$ref" in inner:
            assert inner["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        if "pattern" in inner:
            re.compile(inner["pattern"])
        if "default" in inner:
            assert list(breaches(inner, inner["default"], schema)) == []


@pytest.mark.parametrize(
    ("name", "value"), [(n, value) for n, some in VALID.items() for value in some]
)
def test_what_is_valid_passes_schema_and_reader(name: str, value: Any) -> None:
    """A document that the reader takes breaks no rule of the schema."""
    assert accepts(name, value)
    assert list(breaches(json_schema(name), value, json_schema(name))) == []


@pytest.mark.parametrize(
    ("name", "value"), [(n, value) for n, some in INVALID.items() for value in some]
)
def test_what_is_invalid_passes_neither(name: str, value: Any) -> None:
    """An editor with the schema sees the fault that the reader would name."""
    assert not accepts(name, value)
    assert list(breaches(json_schema(name), value, json_schema(name)))


def test_every_format_has_examples() -> None:
    """A new format must be added to the tables of this file."""
    assert set(FORMATS) == set(VALID) == set(INVALID)


def test_an_unknown_format_is_a_key_error() -> None:
    """A name outside FORMATS is a programming mistake."""
    with pytest.raises(KeyError):
        json_schema("ledger")


def test_a_schema_lists_every_attribute_of_the_envelope() -> None:
    """Editors and other languages know all attributes, `data` with what it may be."""
    properties = json_schema("envelope")["$defs"]["Envelope"]["properties"]

    assert set(properties) == set(Envelope.__struct_fields__)
    assert properties["data"] == {"description": "any JSON value, kept byte for byte"}


texts = st.text(st.sampled_from("aZ09-_.*> \n\u0430smhd"), max_size=12) | st.text(max_size=300)


@given(texts)
def test_the_patterns_agree_with_the_readers(text: str) -> None:
    """Destinations, principals and durations: the schema takes what the reader takes."""
    manifest = json_schema("manifest")["properties"]
    settings = json_schema("settings")["properties"]

    def passes(schema: dict[str, Any]) -> bool:
        return not list(breaches(schema, text, schema)) and "\n" not in text

    try:
        check_destination(text)
        destination = True
    except InvalidName:
        destination = False
    assert passes(manifest["capabilities"]["items"]) == destination
    try:
        Principal.parse(text)
        principal = True
    except InvalidName:
        principal = False
    assert passes(settings["publishers"]["items"]) == principal
    try:
        parse_duration(text)
        duration = True
    except ValueError:
        duration = False
    lease = {"anyOf": manifest["lease"]["anyOf"]}
    assert passes(lease) or not duration


# The names of the package


def test_the_public_names_are_frozen() -> None:
    """The door gives out these names and no others."""
    assert tidegate_schemas.__all__ == [
        *("Envelope", "Kind", "Principal", "Receipt", "Record", "Verdict"),
    ]
    for name in tidegate_schemas.__all__:
        assert getattr(tidegate_schemas, name).__name__ == name


def test_a_process_that_reads_no_documents_does_not_pay_for_pydantic() -> None:
    """Importing the door loads neither pydantic nor PyYAML."""
    code = "import sys, tidegate_schemas; print(*sorted({'pydantic', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""
