"""Leaks that are made on purpose, one of each kind, so that the search for them is known to find what there is."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.faults.canaries import Canaries
from tests.faults.canary_place import watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.canary_place import Place

# How a text may hold a secret.
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda s: s,
    "half of it": lambda s: f"…{s[: len(s) * 3 // 5]}",
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 of a line": lambda s: base64.b64encode(f"password={s}\n".encode()).decode(),
    "base64 in lines": lambda s: base64.encodebytes(f"{'x' * 50}{s}{'x' * 50}".encode()).decode(),
    "URL-encoded": lambda s: quote(s, safe=""),
    "JSON-escaped": json.dumps,
    "JSON in JSON": lambda s: json.dumps(json.dumps([s])),
    "Python": repr,
    "HTML": html.escape,
    "SQL": lambda s: "'" + s.replace("'", "''") + "'",
    "hexadecimal": lambda s: s.encode().hex(),
    "folded": lambda s: fill(f"the password is {s}", 20, break_long_words=True, break_on_hyphens=False),
    "in a table's cell": lambda s: f"| the password {s[:10]} |\n| {s[10:]} |",
}
_SQL = """
import os, psycopg
session = psycopg.connect({dsn!r}, autocommit=True, application_name={name!r})
session.execute({statement!r})
"""
_CHILD = "import subprocess; subprocess.run({words!r}, env={environment!r}, check=True)"
_POST = """
import os, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["HOOK_URL"], {body!r}.encode())
except urllib.error.HTTPError:
    pass
"""
# Until the other login has begun a round of looks after the one in which it was at first.
_UNTIL_SEEN = """
DO $$
DECLARE seen timestamptz := now(); latest timestamptz;
BEGIN
  FOR round IN 1..2 LOOP
    LOOP
      PERFORM pg_stat_clear_snapshot();
      SELECT query_start INTO latest FROM pg_stat_activity
      WHERE usename = 'onlooker' AND query LIKE '%pg_roles%' AND query_start > seen;
      EXIT WHEN FOUND;
      PERFORM pg_sleep(0.01);
    END LOOP;
    seen := latest;
  END LOOP;
END$$
"""


def _script(place: Place, statement: str, name: str = "planted") -> str:
    dsn = place.source.dsn("postgres", "app", password=place.source.password)
    return _SQL.format(dsn=dsn, statement=statement, name=name)


# By the search that has to find it: what a command of planrunner's does besides.
LEAKS: dict[str, tuple[str, Callable[[Place, str], str]]] = {
    "words on stdout": ("stdout and stderr", lambda _, s: f"print({s!r})"),
    "words on stderr": ("stdout and stderr", lambda _, s: f"import sys; print({s!r}, file=sys.stderr)"),
    "a file beside the plan": (
        "state, journal, reports and other files",
        lambda _, s: f"open('plan.yaml.planted', 'w').write({s!r})",
    ),
    "a file among the temporary ones": (
        "state, journal, reports and other files",
        lambda _, s: f"import tempfile; tempfile.NamedTemporaryFile('w', delete=False).write({s!r})",
    ),
    "a notification": ("notifications", lambda _, s: _POST.format(body=s)),
    "a child's argument": (
        "arguments of children",
        lambda _, s: _CHILD.format(words=["true", f"--password={s}"], environment={"PATH": "/bin:/usr/bin"}),
    ),
    "a child's environment": (
        "environment of children",
        lambda _, s: _CHILD.format(words=["true"], environment={"PATH": "/bin:/usr/bin", "PLANTED": s}),
    ),
    "PGPASSWORD for psql": (
        "environment and arguments of PostgreSQL's programs",
        lambda place, s: _CHILD.format(
            words=[f"{place.source.bin_dir}/psql", "--version"], environment={"PGPASSWORD": s}
        ),
    ),
    "a statement in a server's log": (
        "logs of servers and pooler",
        lambda place, s: _script(place, f"SELECT $q${s}$q$"),
    ),
    "a statement in pg_stat_statements": (
        "pg_stat_statements",
        lambda place, s: _script(place, f"CREATE ROLE planted_{len(s)} PASSWORD $q${s}$q$"),
    ),
    "a row of the ledger": (
        "ledgers",
        lambda place, s: _script(
            place, f"CREATE SCHEMA planrunner; CREATE TABLE planrunner.planted AS SELECT $q${s}$q$ AS t"
        ),
    ),
    "a comment": (
        "what other logins see",
        lambda place, s: _script(place, f"COMMENT ON TABLE orders IS $q${s}$q$"),
    ),
    "the name of a session": (
        "what other logins see",
        lambda place, s: _script(place, _UNTIL_SEEN, name=s),
    ),
}


def leaked(place: Place, kind: str) -> Place:
    """The place as seen by who looks for one secret only: that which a command has just leaked."""
    planted = Canaries(first=900 + list(LEAKS).index(kind))
    secret = planted.new("planted", "single quote")
    looked = replace(place, canaries=planted, passwords={"planted"}, said={}, seen={}, ledgers={})
    with watched(looked):
        looked.run(kind, "--version", script=LEAKS[kind][1](place, secret))
    looked.note_made()
    planted.known = {"planted": secret}
    return looked
