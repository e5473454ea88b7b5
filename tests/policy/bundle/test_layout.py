"""Laying out: what policies mean and every comment stay, and twice is once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES
from tidegate_policy.bundle.layout import laid_out
from tidegate_policy.bundle.source import comments

PIECES = (
    '@id("a") permit(principal,action,resource);',
    '@id("b")\n// inside\npermit (principal, // who\n action, resource) when { true // why\n};',
    '@id("c")forbid(principal==Agent::"a.b",action in[Action::"task"],resource)unless{1==1};',
    '@id("; // no comment") permit (principal, action, resource);',
    "// of the next",
    "// alone\n",
    " // after\n",
    "//\n// two\n\n",
    "\n",
    "\n\n\n",
    "\r\n",
)


@EXAMPLES
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_nothing_is_lost_and_twice_is_once(text: str) -> None:
    """Of whatever files are put together from."""
    made, faults = laid_out("a.cedar", text)

    assert not faults
    assert comments(made) == comments(text.replace("\r\n", "\n"))
    assert made.count("@id(") == text.count("@id(")
    assert laid_out("a.cedar", made) == (made, [])


def test_comments_stay_where_they_belong() -> None:
    """The head of the file stays apart; a comment after a policy stays after it."""
    text = (
        "// The file.\n\n// The first.\n"
        '@id("a") permit(principal,action,resource); // so far\n'
        "// The second.\n"
        '@id("b") permit(principal,action,resource);\n// The end.'
    )

    assert laid_out("a.cedar", text)[0] == (
        "// The file.\n\n"
        '// The first.\n@id("a")\npermit (principal, action, resource); // so far\n\n'
        '// The second.\n@id("b")\npermit (principal, action, resource);\n\n'
        "// The end.\n"
    )


@pytest.mark.parametrize("text", ["permit (", f'@id("a") permit (principal, {"(" * 5000}'])
def test_what_does_not_parse_is_left_alone(text: str) -> None:
    """It is told with its line."""
    made, (fault,) = laid_out("a.cedar", f"\n{text}")

    assert made == f"\n{text}"
    assert fault.line == 2
