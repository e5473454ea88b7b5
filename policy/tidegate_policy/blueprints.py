"""Blueprints as the gateway knows them: which capabilities each step may use."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate_schemas.envelope import Envelope, describe
from tidegate_schemas.errors import InvalidEnvelope


class _Document(msgspec.Struct):
    document: Any


class Blueprints:
    """Every version that was ever registered, by digest. A fold of `blueprint.register`."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._steps: dict[str, dict[str, str]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of all blueprints."""
        return frozenset(self._names.values())

    def name(self, digest: str | None) -> str:
        """Of the blueprint with this digest; empty if there is none."""
        return self._names.get(digest, "") if digest else ""

    def capability(self, digest: str, step: str) -> str | None:
        """What a step asks for, if there is such a step."""
        return self._steps.get(digest, {}).get(step)

    def register(self, envelope: Envelope) -> None:
        """One more version.

        Raises:
            InvalidEnvelope: code `data`; it is no blueprint.
        """
        digest, name, steps = read_blueprint(envelope)
        self._names[digest], self._steps[digest] = name, steps


def read_blueprint(envelope: Envelope) -> tuple[str, str, dict[str, str]]:
    """Digest, name, and capability by step, of a `blueprint.register`.

    Raises:
        InvalidEnvelope: code `data`; it is no blueprint.
    """
    import pydantic  # not at the start of every gateway: it takes a while

    from tidegate_schemas.blueprint import Blueprint

    document = envelope.payload(_Document).document
    try:
        blueprint = Blueprint.from_canonical(document)
    except (pydantic.ValidationError, RecursionError) as error:
        raise InvalidEnvelope("data", f"no blueprint: {describe(error)}") from None
    steps = {name: step.task for name, step in blueprint.steps.items()}
    return blueprint.digest, blueprint.blueprint, steps
