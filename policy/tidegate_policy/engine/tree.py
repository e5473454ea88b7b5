"""What Cedar's syntax tree is made of."""

from __future__ import annotations

from cedarpy import pst

from .types import Uid


class NotUnderstood(Exception):
    """An expression that is not of the Cedar this was written for, or a slot."""


def children(expr: pst.Expr) -> tuple[pst.Expr, ...]:
    """The expressions that an expression is directly made of.

    Raises:
        NotUnderstood: nobody knows.
    """
    match expr:
        case pst.Var() | pst.BoolLit() | pst.LongLit() | pst.StringLit() | pst.EntityLit():
            return ()
        case pst.UnaryOp(arg=inner) | pst.GetAttr(base=inner):
            return (inner,)
        case pst.HasAttr(base=inner) | pst.Like(base=inner):
            return (inner,)
        case pst.BinaryOp(left=left, right=right):
            return (left, right)
        case pst.Is(base=base, in_expr=within):
            return (base,) if within is None else (base, within)
        case pst.IfThenElse(cond=cond, then_expr=then, else_expr=other):
            return (cond, then, other)
        case pst.Set(elements=elements):
            return elements
        case pst.Record(fields=fields):
            return tuple(fields.values())
        case _:
            raise NotUnderstood(type(expr).__name__)


def uid(entity: pst.EntityUid) -> Uid:
    """The same as a plain value."""
    return str(entity.type), entity.id
