"""Python: syntax and complexity of what a commit changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.demo.analysis.syntax import THRESHOLD, measure, parse, review_syntax
from tidegate.demo.review import SyntaxReview
from tidegate.demo.sources import MAX_FILE_BYTES, MAX_FILES, Source, Sources, read_sources

from .conftest import Repository


def review(repository: Repository, sha: str) -> SyntaxReview:
    """The review of a commit."""
    return review_syntax(read_sources(repository.path, sha))


def branches(count: int, name: str = "f") -> str:
    """A function of complexity `count`."""
    return f"def {name}(x):\n" + "    if x: pass\n" * (count - 1) + "    return x\n"


def test_broken_python_is_found_with_its_line(repository: Repository) -> None:
    """A file that does not parse is reported; files that do and other files are not."""
    sha = repository.commit({"a.py": "x = 1\n", "in/b.py": "x = 1\ny = (\n", "c.txt": "y = ("})

    found = review(repository, sha)

    assert found.files == 2
    assert [(fault.path, fault.line) for fault in found.faults] == [("in/b.py", 2)]
    assert "never closed" in found.faults[0].text


def test_what_was_broken_before_is_not_this_commits(repository: Repository) -> None:
    """A file that did not parse before the commit is not its fault; breaking it again is."""
    repository.commit({"a.py": "print 'a'\n"})
    touched = repository.commit({"a.py": "print 'b'\n"})
    mended = repository.commit({"a.py": "print('b')\n"})
    broken = repository.commit({"a.py": "print 'b'\n"})

    counts = [len(review(repository, sha).faults) for sha in (touched, mended, broken)]

    assert counts == [0, 0, 1]


def test_hard_commits(repository: Repository, tmp_path: Path) -> None:
    """Deleted files, links and submodules are left out; a rename is read under its new name."""
    inner = Repository(tmp_path / "inner")
    inner.commit({"x.py": "("})
    repository.commit({"gone.py": "(", "old.py": "x = 1\n" * 20})
    repository.git("rm", "--quiet", "gone.py")
    repository.git("mv", "old.py", "new.py")
    repository.git("submodule", "--quiet", "add", str(inner.path), "sub.py")
    (repository.path / "link.py").symlink_to("(")
    sha = repository.commit({"new.py": "x = 1\n" * 20 + "y = (\n", "é {x} \t.py": "(\n"})

    found = review(repository, sha)

    assert {"new.py", "é {x} \t.py"} == {fault.path for fault in found.faults}
    assert (found.files, found.unread) == (2, 0)
    assert review(repository, repository.commit()).files == 0


def test_conflict_marks_that_a_merge_leaves(repository: Repository) -> None:
    """A merge is judged by the files that differ from every parent."""
    repository.commit({"a.py": "x = 1\n"})
    repository.conflict({"a.py": "x = 2\n"}, {"a.py": "x = 3\n", "b.py": "y = 1\n"})
    sha = repository.commit({"a.py": "<<<<<<< main\nx = 2\n", "b.py": "y = 1\n"})

    assert [fault.path for fault in review(repository, sha).faults] == ["a.py"]


def test_encodings(repository: Repository) -> None:
    """A declared encoding is honoured; stray bytes are a syntax error, as they are for Python."""
    declared = "# coding: latin-1\nx = 'é'\n".encode("latin-1")
    sha = repository.commit({"a.py": declared, "b.py": b"x = '\xe9'\n", "c.py": b"x = 1\0\n"})

    assert {"b.py", "c.py"} == {fault.path for fault in review(repository, sha).faults}


def test_projects_for_a_newer_python(repository: Repository) -> None:
    """What this Python cannot parse is not judged when its project asks for a newer one."""
    newer = f'[project]\nrequires-python = ">=3.{sys.version_info.minor + 1}"\n'
    older = '[project]\nrequires-python = ">=3.8"\n'
    sha = repository.commit(
        {
            "pyproject.toml": older,
            "a.py": "def",
            "new/pyproject.toml": newer,
            "new/in/b.py": "def",
            "new/c.py": "x = 1\n",
        }
    )

    found = review(repository, sha)

    assert [fault.path for fault in found.faults] == ["a.py"]
    assert (found.files, found.unread) == (2, 1)


def test_complexity_that_a_commit_adds(repository: Repository) -> None:
    """Functions that are new or grew are reported, the worst first; the others are not."""
    old = branches(15, "same") + branches(12, "grows") + branches(20, "shrinks")
    repository.commit({"a.py": old})
    new = branches(15, "same") + branches(16, "grows") + branches(19, "shrinks")
    limit = branches(THRESHOLD, "fine") + branches(THRESHOLD + 1, "fresh")
    sha = repository.commit({"a.py": new + limit})

    found = review(repository, sha)

    assert [
        (function.name, function.complexity, function.before) for function in found.functions
    ] == [("grows", 16, 12), ("fresh", THRESHOLD + 1, 0)]
    assert found.total_functions == 2


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("return a and b and c", 3),
        ("return a if b else c", 2),
        ("for a in b: pass\n while c: pass", 3),
        ("return [a for a in b if a if c]", 4),
        ("try: pass\n except A: pass\n except B: pass", 3),
        ("match a:\n  case 1: pass\n  case 2: pass", 3),
        ("with a: pass", 1),
        ("def g():\n  if a: pass", 1),
    ],
)
def test_complexity(body: str, complexity: int) -> None:
    """Each way that the control flow can take counts; a function inside counts for itself."""
    found = {f.name: f.complexity for f in measure(parse(f"def f():\n {body}\n".encode()))}

    assert complexity == found["f"]


def test_names_of_functions() -> None:
    """A function is named by the classes and functions around it."""
    tree = parse(b"class A:\n async def f(self):\n  def g(): pass\n")

    assert {"A.f", "A.f.g"} == {function.name for function in measure(tree)}


def test_limits(repository: Repository) -> None:
    """Files that are too many or too large are counted as unread."""
    files = {f"{n:03}.py": f"x = {n}\n" for n in range(MAX_FILES + 3)}
    sha = repository.commit(files | {"000.py": "#" * (MAX_FILE_BYTES + 1)})

    found = review(repository, sha)

    assert (found.files, found.unread) == (MAX_FILES - 1, 4)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_only_syntax_errors_are_raised(text: bytes) -> None:
    """Whatever a file holds, it parses or is a syntax error."""
    review_syntax(Sources((Source("a.py", text, (text,)),)))


@pytest.mark.parametrize("text", ["(" * 5_000, "-" * 50_000 + "1", "x" + ".x" * 50_000, "'\\d'"])
def test_monsters(text: str) -> None:
    """Deep nesting is a syntax error at worst, and warnings of the parser are nobody's."""
    found = review_syntax(Sources((Source("a.py", text.encode()),)))

    assert len(found.faults) <= 1
