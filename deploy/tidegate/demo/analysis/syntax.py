"""Python: whether it parses, and which functions became too complex.

Only what the commit itself did is reported: a file that did not parse before, or a function
that was as complex before, is somebody else's. What does not parse and is written for a newer
Python than this one is not judged.
"""

from __future__ import annotations

import ast
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from tidegate.demo.review import ComplexFunction, SyntaxFault, SyntaxReview
from tidegate.demo.sources import Source, Sources

THRESHOLD = 10
"""McCabe's own limit (1976). A function may be this complex."""
MAX_FAULTS = 20
MAX_FUNCTIONS = 5

_PARSING = threading.Lock()
"""Filters of warnings belong to the process, and handlers run in threads."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.comprehension,
    ast.match_case,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One function: qualified name, line and cyclomatic complexity."""

    name: str
    line: int
    complexity: int


def review_syntax(sources: Sources) -> SyntaxReview:
    """Review the changed Python files of a commit."""
    faults: list[SyntaxFault] = []
    functions: list[ComplexFunction] = []
    foreign = 0
    for source in sources.files:
        try:
            functions += _grown(source, measure(parse(source.text)))
        except SyntaxError as error:
            if source.requires > sys.version_info:
                foreign += 1
            elif all(_parse_or_none(text) for text in source.before):
                faults.append(SyntaxFault(source.path, error.lineno or 0, error.msg))
    functions.sort(key=lambda function: (-function.complexity, function.path, function.line))
    return SyntaxReview(
        files=len(sources.files) - foreign,
        faults=tuple(faults[:MAX_FAULTS]),
        functions=tuple(functions[:MAX_FUNCTIONS]),
        total_functions=len(functions),
        unread=sources.unread + foreign,
    )


def parse(text: bytes) -> ast.Module:
    """Parse a module, in the encoding that it declares.

    Raises:
        SyntaxError: this Python cannot; nothing else is raised, whatever the bytes are.
    """
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError:
        raise
    except ValueError as error:
        raise SyntaxError(str(error)) from None
    except (MemoryError, RecursionError):
        raise SyntaxError("nested too deeply") from None


def measure(tree: ast.Module) -> Iterator[Measured]:
    """All functions with their complexity; a function within a function counts for itself."""
    scopes: list[tuple[ast.AST, str]] = [(tree, "")]
    while scopes:
        scope, name = scopes.pop()
        branches = 0
        nodes = list(ast.iter_child_nodes(scope))
        while nodes:
            node = nodes.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                scopes.append((node, f"{name}.{node.name}".lstrip(".")))
                continue
            branches += _weight(node)
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(scope, _Function):
            yield Measured(name, scope.lineno, branches + 1)


def _weight(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return isinstance(node, _BRANCHES)


def _grown(source: Source, functions: Iterator[Measured]) -> Iterator[ComplexFunction]:
    """Functions over the threshold that were simpler, or absent, at every parent."""
    complex_ = [function for function in functions if function.complexity > THRESHOLD]
    if not complex_:
        return
    before: dict[str, int] = {}
    for tree in filter(None, map(_parse_or_none, source.before)):
        for old in measure(tree):
            before[old.name] = max(old.complexity, before.get(old.name, 0))
    for function in complex_:
        was = before.get(function.name, 0)
        if function.complexity > was:
            yield ComplexFunction(
                source.path, function.line, function.name, function.complexity, was
            )


def _parse_or_none(text: bytes) -> ast.Module | None:
    try:
        return parse(text)
    except SyntaxError:
        return None
