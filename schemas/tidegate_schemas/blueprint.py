"""A blueprint: a versioned workflow. Steps form a graph; a run pins the digest of the text."""

from __future__ import annotations

import hashlib
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, Field, model_validator

from .documents import Destination, Document, Duration, Name, misfit, unportable
from .manifest import Retry


def _no_keyword(name: str) -> str:
    if name in {"false", "in", "null", "true"}:
        raise ValueError("a word of CEL; `steps.<name>.output` would not parse")
    return name


StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$"), AfterValidator(_no_keyword)]
"""Also a CEL identifier, so that `steps.<name>.output` reads as it is written."""


class Trigger(Document):
    """What starts a run besides `tidegate run start`."""

    event: Destination


class Step(Document):
    """One step: a task for an agent, once or once for each element of a list.

    Strings in `with` may hold `${ CEL }`; so may `when` and `foreach`, which are CEL as a whole.
    Names at hand: `input`, `event`, `run`, `steps.<name>.output`, in a `foreach` also `item`.
    """

    task: Destination
    needs: tuple[StepName, ...] = Field(default=(), strict=False)
    """Steps that must have ended before. A skipped step has ended, with output null."""
    when: str | None = None
    """CEL, a bool: false skips the step."""
    foreach: str | None = None
    """CEL, a list: one task an element, at most 1,000; the output is the list of their outputs."""
    with_: dict[str, Any] = Field(default_factory=dict[str, Any], alias="with")
    """The task's data."""
    retry: Retry = Retry(attempts=1)
    """Further attempts of the step after the worker gave up or the time was over."""
    timeout: Duration = 300.0
    """Time for one attempt, from the moment its task is in the ledger."""

    @model_validator(mode="after")
    def _portable(self) -> Step:
        # What is no JSON has no place in the canonical form, so it would escape the digest.
        if faults := [(("with", *at), what) for at, what in unportable(self.with_)]:
            raise misfit(Step, faults)
        return self


class Blueprint(Document):
    """A workflow that the coordinator runs."""

    blueprint: Name
    version: Annotated[int, Field(ge=1, le=2**53 - 1)]
    description: str = ""
    on: Trigger | None = None
    delegate: bool = False
    """Tasks are given on behalf of who started the run: policy must permit them to both."""
    steps: Annotated[dict[StepName, Step], Field(min_length=1, max_length=200)]
    output: str | None = None
    """CEL: what the run yields; by default the output of the last step written."""

    @model_validator(mode="after")
    def _graph(self) -> Blueprint:
        if faults := [
            (("steps", name, "needs", index), f"there is no step {need!r}")
            for name, step in self.steps.items()
            for index, need in enumerate(step.needs)
            if need not in self.steps
        ]:
            raise misfit(Blueprint, faults)
        try:
            TopologicalSorter({n: s.needs for n, s in self.steps.items()}).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1]
            what = f"steps wait for each other: {' -> '.join(cycle)}"
            raise misfit(Blueprint, [(("steps", cycle[0], "needs"), what)]) from None
        return self

    @property
    def canonical(self) -> dict[str, Any]:
        """The document as plain values, defaults written out; what the digest is of."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """`sha256:…` over the canonical form as JSON with sorted keys.

        A blueprint without `output` yields the output of its last step. Sorting hides which one
        that is, so the digest is of the expression that says it.
        """
        document = self.canonical
        if self.output is None:
            document["output"] = f"steps.{next(reversed(self.steps))}.output"
        if not self.delegate:  # as before there was such a thing
            del document["delegate"]
        text = msgspec.json.encode(document, order="sorted")
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    @classmethod
    def from_canonical(cls, document: object) -> Blueprint:
        """The inverse of `canonical`.

        Raises:
            pydantic.ValidationError: it is not a blueprint.
        """
        return cls.model_validate(document)
