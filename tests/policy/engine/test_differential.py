"""The engine against Cedar without a memory: random policies, random requests, one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.engine.grammar import Grammar
from policy.engine.requests import Request, Requests
from policy.engine.world import CONTEXTS, ENTITIES, SCHEMA, Oracle, identified, same
from tidegate_policy.engine import Counters, Difference, Engine


def surprised(difference: Difference) -> None:
    """Fail."""
    raise AssertionError(difference)


def differing(policies: Mapping[str, str], requests: Iterable[Request]) -> Counters:
    """Ask both, and fail where they differ."""
    engine = Engine.build(identified(policies), SCHEMA, CONTEXTS, ENTITIES, on_difference=surprised)
    oracle = Oracle(policies)
    for request in requests:
        answer, right = engine.ask(*request), oracle.ask(*request)

        assert same(answer, right), (policies, request, answer, right)
    return engine.counters


def total(each: Iterable[Counters]) -> Counters:
    """Of several engines."""
    return Counters(*map(sum, zip(*each, strict=True)))


@settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(random=st.randoms(use_true_random=False))
def test_the_engine_answers_as_cedar_does(random: Random) -> None:
    """Whatever the policies say, and however often the like was asked."""
    policies = Grammar(random).policies(6)
    differing(policies, Requests(random, "".join(policies.values())).stream(30))


def test_a_sensible_share_of_answers_is_remembered() -> None:
    """The same over more requests: of policies of every kind, half of the answers at least."""
    random = Random(1)
    counts = total(
        differing(Grammar(random).policies(8), Requests(random).stream(60)) for _ in range(120)
    )

    assert counts.hits > 0.2 * (counts.hits + counts.misses + counts.uncached), counts


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_many_sets_of_policies(seed: int) -> None:
    """The same for long."""
    random = Random(seed)
    for _ in range(100):
        policies = Grammar(random).policies(12)
        differing(policies, Requests(random, "".join(policies.values())).stream(100))
