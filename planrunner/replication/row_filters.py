"""Row filters as text: whether one may stand inside WHERE (…), and the filter of a time window."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from planrunner.postgres.catalog import Table

# What an expression is made of, as far as it matters here, one token at a time.
_TOKEN = re.compile(
    r"""(?P<escaped>[eE]')|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<comment>--|/\*)"""
    r"""|(?P<word>[^\W\d][\w$]*)|(?P<other>.)""",
    re.DOTALL,
)
# The literal takes the column's own type: compared across types, the outcome would depend on a session.
_TIMES = {
    "timestamp with time zone": ("timestamptz", "%Y-%m-%d %H:%M:%S+00"),
    "timestamp without time zone": ("timestamp", "%Y-%m-%d %H:%M:%S"),
    "date": ("date", "%Y-%m-%d"),
}


def fault(expression: str) -> str | None:
    """Why ``expression`` can't be put between parentheses as it is; None when it can.

    It goes to the server inside statements of ours, so it must not end them, nor begin a comment.
    """
    if "\0" in expression:
        return "it holds a zero byte"
    depth = 0
    for token in _TOKEN.finditer(expression):
        text = token[0]
        match token.lastgroup:
            case "comment":
                return "it holds a comment"
            case "escaped":
                # Its escapes reach into strings that follow on the next line; no filter needs them.
                return "it holds a string of the form E'…'"
            case "other" if text in {"'", '"', ";", "$", "\\"}:
                return f"a {text} is not closed" if text in "'\"" else f"{text!r} has no place in it"
            case _:
                depth += {"(": 1, ")": -1}.get(text, 0)
        if depth < 0:
            break
    if depth != 0:
        return "its parentheses don't match"
    return None if expression.strip() else "it is empty"


def both(first: str | None, second: str | None) -> str | None:
    """The filter of what passes both."""
    return f"({first}) AND ({second})" if first and second else first or second


def since(table: Table, column: str, instant: datetime) -> str:
    """The filter of a table's rows from ``instant`` on; ValueError where the column has no time.

    A timestamp without zone, and a date, are taken to be UTC.
    """
    found = next((c for c in table.columns if c.name == column), None)
    if found is None:
        near = ", ".join(c.name for c in table.columns if c.base in _TIMES) or "none"
        raise ValueError(f'{table.qualified} has no column "{column}" (its columns of a time: {near})')
    if found.base not in _TIMES:
        raise ValueError(f"{table.qualified}.{column} is {found.type}, which is no date or timestamp")
    short, form = _TIMES[found.base]
    literal = sql.Literal(instant.astimezone(UTC).strftime(form)).as_string()
    # A user's own type called date must not get in between.
    return f"{sql.Identifier(column).as_string()} >= {literal}::pg_catalog.{short}"


def predicate(where: str) -> sql.Composed:
    """``where`` in parentheses, for a statement that is executed without parameters."""
    # Passed by ``fault`` when the plan's selection was read: it can't end what stands around it.
    return sql.SQL("({})").format(sql.SQL(where))  # pyright: ignore[reportArgumentType]
