"""What is told over HTTP of errors."""

from __future__ import annotations

from tidegate.edge.problems import problem_of
from tidegate_schemas.errors import Denied


def test_a_denial_names_the_policies_that_forbid() -> None:
    """In words too: the reason alone would not say where to look."""
    document = problem_of(Denied("forbidden", "", 3, ("no-gifts", "no-sundays"))).document

    assert document["detail"] == "forbidden by no-gifts, no-sundays"
