"""How paths and words are written so that systemd reads them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.service.text import binds, command, paths, plain, quoted
from tidegate_schemas.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/hello", "/srv/hello"),
        ("/srv/my bus", '"/srv/my bus"'),
        ("/srv/100%", "/srv/100%%"),
        ('/srv/"q"', '"/srv/\\"q\\""'),
        ("/srv/a\\b", '"/srv/a\\\\b"'),
        ("/srv/a;b", '"/srv/a;b"'),
        ("/srv/żółw", "/srv/żółw"),
        ("", '""'),
    ],
)
def test_a_word_is_quoted_only_where_it_has_to_be(text: str, expected: str) -> None:
    """Blanks, quotes and backslashes are; a per cent sign is doubled: it would name something."""
    assert expected == quoted(text)


def test_a_value_on_a_line_of_its_own_is_not_quoted() -> None:
    """There, quotes would be part of it."""
    assert plain(Path("/srv/my bus%")) == "/srv/my bus%%"


@pytest.mark.parametrize("text", ["/srv/a\nExecStart=/bin/sh", "/srv/a\t", " /srv", "/srv/\x07"])
def test_what_no_line_can_hold_is_refused(text: str) -> None:
    """So no path of a project becomes a line of its own in a unit."""
    with pytest.raises(InvalidInput, match="cannot be written in a unit"):
        plain(text)


def test_a_dollar_sign_is_no_variable() -> None:
    """In a command line it is doubled; elsewhere it means nothing."""
    assert (
        command(["/bin/tidegate", "--project", "/srv/$HOME"])
        == "/bin/tidegate --project /srv/$$HOME"
    )
    assert paths([Path("/srv/$HOME")]) == "/srv/$HOME"


def test_paths_that_need_not_be_there_and_paths_with_colons_are_marked() -> None:
    """A minus before the path, inside the quotes; a backslash before what would end it."""
    assert paths([Path("/a"), Path("/b c")], optional=True) == '-/a "-/b c"'
    assert binds([Path("/a:b"), Path("/c")]) == "-/a\\:b -/c"
