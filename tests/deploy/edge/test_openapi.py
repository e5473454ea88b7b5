"""The OpenAPI document: it is one, and the edge keeps to it whatever it is sent."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tidegate.edge.events import Limits
from tidegate.edge.openapi import document

from .ground import Ground, ground

_json_schema: Any = importlib.import_module("jsonschema")  # it ships no types

LIMITS = Limits(1024 * 1024, 256 * 1024)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture
async def here(tmp_path: Path, pytestconfig: pytest.Config) -> AsyncGenerator[Ground]:
    """A stack with an edge."""
    async with ground(tmp_path, pytestconfig) as made:
        yield made


def test_every_reference_leads_somewhere() -> None:
    """And every schema is one of JSON Schema, as OpenAPI 3.1 has it."""
    found = document(LIMITS)
    schemas = found["components"]["schemas"]

    references = list(_references(found))
    assert references
    assert {one.removeprefix("#/components/schemas/") for one in references} <= schemas.keys()
    for schema in schemas.values():
        _json_schema.Draft202012Validator.check_schema(schema)


def test_every_operation_tells_its_problems_with_a_schema() -> None:
    """So a client's generator makes one type of them all."""
    for path, methods in document(LIMITS)["paths"].items():
        for operation in methods.values():
            assert "503" in operation["responses"], path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (content,) = response["content"]
                    assert content == "application/problem+json", (path, status)


@pytest.mark.long
async def test_schemathesis_finds_nothing(here: Ground, tmp_path: Path) -> None:
    """Thousands of requests made out of the document, good and bad: no 500, nothing undocumented.

    In an environment of its own: its plugins and what it needs are nothing of ours. The stream is
    left out, because it does not end.
    """
    process = await asyncio.create_subprocess_exec(
        *("uvx", "--from", "schemathesis>=4.20,<5", "st", "run", f"{here.url}/v1/openapi.json"),
        *("--header", f"Authorization: {here.bearer()['Authorization']}"),
        *("--checks", ",".join(CHECKS), "--exclude-path", "/v1/stream"),
        *("--max-examples", "60", "--generation-deterministic", "--no-color", "--no-shrink"),
        *("--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"),
        *("--warnings", "off", "--request-timeout", "20"),
        cwd=tmp_path,  # where it keeps what it has found
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()[-8000:]


def _references(value: Any) -> list[str]:
    text = json.dumps(value)
    return [part.split('"')[0] for part in text.split('"$ref": "')[1:]]
