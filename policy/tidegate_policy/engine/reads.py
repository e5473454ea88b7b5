"""What a policy reads of the context: the ground on which two contexts are alike to it.

Two contexts of one type are alike to a policy if every path it reads is there in both or in
neither and has values that are equal or, where the policy only compares the value with literals,
that compare equally with those. Python never decides: it only says which contexts are alike, and
Cedar decides for one of them. What is read in any other way than those below counts as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cedarpy import pst

from .tree import children
from .types import Record, Scalar

Path = tuple[str, ...]
"""Names of attributes, from the context down."""

Reads = Mapping[Path, frozenset[int | str] | None]
"""By path: `None` if the value matters as a whole, else the literals that it is compared with.

Long: `==`, `<` and their like. String: `==`, or is in a set of literals. Set<String>: contains.
No literal: all that matters is whether it is there.
"""

_Found = tuple[Path, frozenset[int | str] | None]
_PRESENCE: frozenset[int | str] = frozenset()
_COMPARISONS = frozenset({"eq", "not_eq", "less", "less_eq", "greater", "greater_eq"})


def reads(policy: pst.Template, context: Record) -> Reads:
    """What one policy reads of a context of this type.

    Raises:
        NotUnderstood: it cannot be told.
    """
    found: dict[Path, frozenset[int | str] | None] = {}
    for clause in policy.clauses:
        for path, literals in _of(clause.expr, context):
            _add(found, path, literals)
    return found


def union(each: Iterable[Reads]) -> Reads:
    """What several policies read between them."""
    found: dict[Path, frozenset[int | str] | None] = {}
    for some in each:
        for path, literals in some.items():
            _add(found, path, literals)
    return found


def _add(
    found: dict[Path, frozenset[int | str] | None],
    path: Path,
    literals: frozenset[int | str] | None,
) -> None:
    known = found.get(path, _PRESENCE)
    found[path] = None if known is None or literals is None else known | literals


def _of(expr: pst.Expr, context: Record) -> Iterator[_Found]:
    match expr:
        case pst.Var(name="context"):
            yield from _whole((), context)
        case pst.GetAttr() if (path := _path(expr)) is not None:
            yield from _value(path, context)
        case pst.HasAttr(base=base, attrs=attrs) if (path := _path(base)) is not None:
            yield from _way((*path, *attrs), context)
        case pst.BinaryOp(op=op, left=left, right=right) if compared := _compared(
            op, left, right, context
        ):
            yield from _way(compared[0], context)
            yield compared
        case _:
            for part in children(expr):
                yield from _of(part, context)


def _compared(
    op: pst.BinaryOpName, left: pst.Expr, right: pst.Expr, context: Record
) -> _Found | None:
    """The attribute and the literals, if the expression is no more than that."""
    if op == "contains":
        if isinstance(right, pst.StringLit):
            return _literals(Scalar.STRINGS, left, (right,), context)
        if isinstance(left, pst.Set):
            return _literals(Scalar.STRING, right, left.elements, context) or _literals(
                Scalar.LONG, right, left.elements, context
            )
    elif op in _COMPARISONS:
        if isinstance(left, pst.LongLit | pst.StringLit):
            left, right = right, left
        if found := _literals(Scalar.LONG, left, (right,), context):
            return found
        if op in ("eq", "not_eq"):
            return _literals(Scalar.STRING, left, (right,), context)
    return None


def _literals(
    type: Scalar, attribute: pst.Expr, others: tuple[pst.Expr, ...], context: Record
) -> _Found | None:
    """The path and the literals, if it is a path to this type and those are literals of it."""
    path = _path(attribute)
    if path is None or _type(path, context) is not type:
        return None
    literal = pst.LongLit if type is Scalar.LONG else pst.StringLit
    values = frozenset(other.value for other in others if isinstance(other, literal))
    return (path, values) if all(isinstance(other, literal) for other in others) else None


def _path(expr: pst.Expr) -> Path | None:
    """`context`, or attributes of attributes of it; None if it is anything else."""
    names: list[str] = []
    while isinstance(expr, pst.GetAttr):
        names.append(expr.attr)
        expr = expr.base
    return tuple(reversed(names)) if expr == pst.Var("context") else None


def _type(path: Path, context: Record) -> Record | Scalar | None:
    inside: Record | Scalar = context
    for name in path:
        attribute = inside.attributes.get(name) if isinstance(inside, Record) else None
        if attribute is None:
            return None
        inside = attribute.type
    return inside


def _value(path: Path, context: Record) -> Iterator[_Found]:
    """Reading a value: all of it matters, and whether it is there.

    An attribute that is not in its record's type is in no context, so nothing can differ.
    """
    yield from _way(path, context)
    found = _type(path, context)
    if found is not None:
        yield from _whole(path, found)


def _way(path: Path, context: Record) -> Iterator[_Found]:
    """What on the way may not be there; and a value that is no record, if the way goes on."""
    inside: Record | Scalar = context
    for depth, name in enumerate(path):
        if not isinstance(inside, Record):
            yield path[:depth], None
            return
        attribute = inside.attributes.get(name)
        if attribute is None:
            return
        if not attribute.required:
            yield path[: depth + 1], _PRESENCE
        inside = attribute.type


def _whole(path: Path, type: Record | Scalar) -> Iterator[_Found]:
    if not isinstance(type, Record):
        yield path, None
        return
    for name, attribute in type.attributes.items():
        if not attribute.required:
            yield (*path, name), _PRESENCE
        yield from _whole((*path, name), attribute.type)
