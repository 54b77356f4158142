"""The databases that are copied, made on the server; at scale 1 as large as the comparison is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

import psycopg

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Case:
    """One database to copy. ``slow``: both legs go over the slow line. ``floor``: its one table, if it is one."""

    name: str
    title: str
    script: LiteralString
    sizes: Mapping[str, int]
    slow: bool = False
    floor: str | None = None

    def build(self, dsn: str, *, scale: float) -> None:
        """Fill an empty database; row and table counts are ``scale`` times those of the case."""
        scaled = {name: str(max(1, round(size * scale))) for name, size in self.sizes.items()}
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("SET synchronous_commit = off; SET client_min_messages = warning")
            for name, size in scaled.items():
                # A DO block takes no parameters; it reads the session's own settings instead.
                session.execute("SELECT set_config('bench.' || %s, %s, false)", (name, size))
            session.execute(self.script)
            # Hint bits and the visibility map are written here, not by whoever reads first.
            session.execute("VACUUM (FREEZE, ANALYZE)")
            session.execute("CHECKPOINT")


_WIDE: LiteralString = """
CREATE TABLE accounts (aid int NOT NULL, bid int, abalance int, filler char(84));
INSERT INTO accounts SELECT n, 1 + (n - 1) / 100000, 0, '' FROM generate_series(1, current_setting('bench.rows')::int) n;
ALTER TABLE accounts ADD PRIMARY KEY (aid);
"""

_MIX: LiteralString = """
DO $$
BEGIN
  FOR i IN 1 .. current_setting('bench.small')::int LOOP
    EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL)', i);
    EXECUTE format('INSERT INTO small_%s SELECT n, md5(n::text), timestamptz %L + n * interval %L'
      ' FROM generate_series(1, 500) n', i, '2024-01-01 00:00+00', '1 minute');
  END LOOP;
END $$;
CREATE TABLE documents (id bigint NOT NULL, customer int NOT NULL, at timestamptz NOT NULL, body jsonb NOT NULL);
INSERT INTO documents SELECT n, n % 20000, timestamptz '2024-01-01 00:00+00' + n * interval '7 seconds',
  jsonb_build_object('status', (ARRAY['new', 'paid', 'sent', 'back'])[1 + n % 4], 'total', n % 1000,
    'lines', jsonb_build_array(n % 977, n % 613, n % 89), 'note', repeat(md5(n::text), 6))
  FROM generate_series(1, current_setting('bench.documents')::int) n;
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_customer ON documents (customer, at);
CREATE INDEX documents_status ON documents ((body ->> 'status'), at);
CREATE INDEX documents_body ON documents USING gin (body jsonb_path_ops);
CREATE TABLE narrow (id bigint NOT NULL, a int NOT NULL, b int NOT NULL);
INSERT INTO narrow SELECT n, n % 1000, n / 7 FROM generate_series(1, current_setting('bench.narrow')::int) n;
ALTER TABLE narrow ADD PRIMARY KEY (id);
"""

# Every fifth table refers to the one before it. A commit now and then: locks of 1,000 tables fill the lock table.
_MANY: LiteralString = """
DO $$
BEGIN
  FOR i IN 1 .. current_setting('bench.tables')::int LOOP
    EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY, other int NOT NULL, name text NOT NULL,'
      ' price numeric(10, 2), at timestamptz DEFAULT now())', i);
    EXECUTE format('INSERT INTO t_%s SELECT n, n, md5(n::text), n / 4.0, %L FROM generate_series(1, 200) n',
      i, '2024-02-29 12:00+00');
    EXECUTE format('CREATE INDEX t_%s_name ON t_%s (name)', i, i);
    IF i % 5 = 0 THEN
      EXECUTE format('ALTER TABLE t_%s ADD FOREIGN KEY (other) REFERENCES t_%s', i, i - 1);
    END IF;
    IF i % 50 = 0 THEN COMMIT; END IF;
  END LOOP;
END $$;
"""

CASES: Mapping[str, Case] = {
    "a": Case(
        name="a",
        title="one wide table of 5 M rows with its primary key",
        script=_WIDE,
        sizes={"rows": 5_000_000},
        floor="accounts",
    ),
    "b": Case(
        name="b",
        title="200 small tables, jsonb with four indexes, a narrow table of 6 M rows",
        script=_MIX,
        sizes={"small": 200, "documents": 700_000, "narrow": 6_000_000},
    ),
    "c": Case(
        name="c",
        title="1,000 small tables, 20 ms each way to both servers",
        script=_MANY,
        sizes={"tables": 1_000},
        slow=True,
    ),
}
