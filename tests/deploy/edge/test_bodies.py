"""How requests share the memory for their bodies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge.bodies import Bodies, peer
from tidegate.edge.problems import Problem

EXAMPLES = settings(database=None, deadline=None, derandomize=True, max_examples=200)


def most(bodies: Bodies, client: str) -> int:
    """How much a client gets, byte by byte."""
    taken = 0
    while True:
        try:
            bodies.take(client, 1)
        except Problem:
            return taken
        taken += 1


def test_one_client_gets_half_and_each_further_one_half_of_the_rest() -> None:
    """Who comes later gets less, and never nothing; what is given back is there again."""
    bodies = Bodies(800)
    assert [most(bodies, client) for client in "abc"] == [400, 200, 100]
    with pytest.raises(Problem) as caught:
        bodies.take("d", 101)
    assert (caught.value.status, caught.value.headers) == (503, [("retry-after", "1")])

    bodies.give_back("a", 400)
    bodies.give_back("b", 200)
    assert most(bodies, "c") == 300


def test_a_network_of_ipv6_is_one_client() -> None:
    """Whoever has one address of it has all of them."""
    own = [peer((f"2001:db8:0:{net}::{host}", 1)) for net, host in ((1, 1), (1, 2), (2, 1))]
    assert own[0] == own[1] != own[2]
    assert peer(("fe80::1%eth0", 1)) == peer(("fe80::2", 1))
    assert [peer(("192.0.2.1", 1)), peer(None)] == ["192.0.2.1", ""]


steps = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 400)), max_size=60)


@EXAMPLES
@given(steps)
def test_no_more_is_taken_than_there_is(taken: list[tuple[str, int]]) -> None:
    """Whoever takes and gives back, in whatever order; in the end all of it is there."""
    bodies, held = Bodies(1000), list[tuple[str, int]]()
    for client, size in taken:
        try:
            bodies.take(client, size)
            held.append((client, size))
        except Problem:
            if held:
                bodies.give_back(*held.pop(len(held) // 2))
        assert sum(size for _, size in held) < 1000
    for one in held:
        bodies.give_back(*one)
    assert most(bodies, "a") == 500
