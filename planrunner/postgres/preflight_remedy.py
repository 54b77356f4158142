"""Remedies of the preflight: the exact statements, and on which side to run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.model import Side

_SHOWN = 6


def run_on(side: Side, statements: Sequence[sql.Composable], *, otherwise: str | None = None) -> str:
    """``Run on the source: ALTER …; ALTER …;``, only the first few where there are many.

    ``otherwise`` is told behind the last statement, and has no semicolon: what stands before the last is SQL.
    """
    shown = "; ".join(statement.as_string() for statement in statements[:_SHOWN])
    more = len(statements) - _SHOWN
    rest = f" (and {more} more like these)" if more > 0 else ""
    also = f" {otherwise}" if otherwise else ""
    return f"Run on the {side.value}: {shown};{rest}{also}"


def texts(statements: Iterable[sql.Composable]) -> tuple[str, ...]:
    """The statements as ``Fix`` holds them."""
    return tuple(statement.as_string() for statement in statements)


def columns(names: Iterable[str]) -> sql.Composed:
    """Column names in a list."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
