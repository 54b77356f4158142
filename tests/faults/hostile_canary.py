"""Whether a payload was executed: by the canary's own table, and by every statement that the servers logged."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from tests.faults.hostile_names import CANARY, SINGER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a server takes for one word, by its own lexer's rules; our code that splits scripts is not asked.
_QUOTED = re.compile(
    r"""
    --[^\n\r]*
  | /\*.*?\*/
  | \b[eE]'(?:[^'\\]|\\.|'')*'
  | '(?:[^']|'')*'
  | "(?:[^"]|"")*"
  | \$(\w*)\$.*?\$\1\$
    """,
    re.VERBOSE | re.DOTALL,
)
# Payloads name them without a schema; pg_dump and whatever moves them as the objects they are, with it.
_SONG = re.compile(rf"(?<!public\.)\b(?:{CANARY}|{SINGER})\b")
_STATEMENT = re.compile(r"(?:statement|execute [^:]*|parse [^:]*): ", re.DOTALL)


def sung(dsn: str) -> list[str]:
    """What stands in the canary's table."""
    with psycopg.connect(dsn) as session:
        table = sql.Identifier("public", CANARY)
        found = session.execute(sql.SQL("SELECT song FROM {} ORDER BY 1").format(table)).fetchall()
        return [row[0] for row in found]


def outside_of_quotes(log: Path) -> Iterator[str]:
    """Statements of a JSON log in which the canary or its singer stands as a word of its own."""
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            if CANARY not in line and SINGER not in line:
                continue
            told = json.loads(line)
            if told.get("dbname") is None or told.get("application_name") == "careful":
                continue
            found = _STATEMENT.match(told.get("message", ""))
            if found is None:
                continue
            statement = told["message"][found.end() :]
            if _SONG.search(_QUOTED.sub(" ", statement)):
                yield statement
