"""The patch format, read as hostile bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.demo.patch import FilePatch, Patch, parse

PATCH = b"""diff --git a.txt a.txt
index 0000000..1111111 100644
--- a.txt
+++ a.txt
@@ -3,2 +3 @@ def f():
-old
-older
+new
\\ No newline at end of file
"""


def test_a_patch() -> None:
    """Added lines come with their numbers; what git adds for people is passed over."""
    assert Patch((FilePatch("a.txt", [(3, b"new")], deleted=2),)) == parse(PATCH)


def test_a_last_line_without_end_is_not_believed() -> None:
    """Of a patch that was cut, half a line is dropped."""
    cut = parse(PATCH[: PATCH.index(b"ew\n")], complete=False)

    assert Patch((FilePatch("a.txt", [], deleted=2),), complete=False) == cut


def test_absurd_numbers() -> None:
    """A hunk that announces more than can be is read as far as it goes, or not at all."""
    for number, added in ((b"9" * 9, [(1, b"new")]), (b"9" * 5_000, [])):
        text = b"diff --git a a\n@@ -0,0 +1,%b @@\n+new\n" % number
        assert parse(text).files[0].added == added


def test_quoted_paths() -> None:
    """Paths that git quotes are read as they are on the disk."""
    for quoted, path in {
        rb'"t\ta\"b"': 't\ta"b',
        rb'"\303\251\\"': "é\\",
        rb'"\001\r"': "\x01\r",
        b"plain": "plain",
        b'"': '"',
    }.items():
        assert path == parse(b"diff --cc " + quoted).files[0].path


@given(st.binary() | st.lists(st.sampled_from(PATCH.split(b"\n"))).map(b"\n".join))
def test_nothing_is_raised(text: bytes) -> None:
    """Whatever the bytes are, they are read as some patch."""
    assert parse(text).complete
    assert not parse(text, complete=False).complete
