"""The migrations that are broken off at every point: what lies in them, and the commands that lead through."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.written (id int PRIMARY KEY, v int NOT NULL, pad text NOT NULL DEFAULT repeat('p', 200));
CREATE TABLE app.small (id bigserial PRIMARY KEY, v text);
INSERT INTO app.small (v) SELECT 's' || i FROM generate_series(1, 50) i;
CREATE TABLE app.big (id int PRIMARY KEY, v text);
INSERT INTO app.big SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
CREATE INDEX big_v ON app.big (left(v, 8));
CREATE TABLE app.part (id int, day date NOT NULL, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE app.part_1 PARTITION OF app.part FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE app.part_2 PARTITION OF app.part FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO app.part SELECT i, '2026-01-01'::date + i % 50, 'p' FROM generate_series(1, 300) i;
CREATE TABLE app.child (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, big int REFERENCES app.big);
INSERT INTO app.child (big) SELECT i FROM generate_series(1, 200) i;
CREATE TABLE app.keyless (v text); INSERT INTO app.keyless SELECT 'k' || i % 7 FROM generate_series(1, 60) i;
CREATE TABLE app.log (v text); INSERT INTO app.log SELECT 'l' || i % 5 FROM generate_series(1, 40) i;
CREATE TABLE app.late (v text); INSERT INTO app.late SELECT 'late' FROM generate_series(1, 30);
CREATE UNLOGGED TABLE app.fleeting (id int PRIMARY KEY);
CREATE SEQUENCE app.counter START 7 INCREMENT 3; SELECT nextval('app.counter') FROM generate_series(1, 9);
CREATE MATERIALIZED VIEW app.seen AS SELECT count(*) AS n FROM app.small;
CREATE TABLE app.notes (v text PRIMARY KEY);
SELECT lo_from_bytea(70001, '\\x010203'); SELECT lo_from_bytea(70002, repeat('x', 5000)::bytea);
COMMENT ON LARGE OBJECT 70001 IS 'one';
DO $$ BEGIN
  IF to_regrole('planrunner_keeper') IS NULL THEN CREATE ROLE planrunner_keeper; END IF;
  EXECUTE format('ALTER DATABASE %I SET work_mem = %L', current_database(), '5MB');
END $$;
ALTER TABLE app.small OWNER TO planrunner_keeper;
"""
STEPS = """
  - id: note
    uses: sql
    with:
      side: source
      statements: ["INSERT INTO app.notes VALUES ('noted')"]
      done_when: "SELECT count(*) = 1 FROM app.notes"
    before: [{command: ["true"], repeatable: true}]
  - {id: ready, uses: wait, with: {side: source, query: "SELECT true"}}
"""


UNLINK = """
  - id: unlink
    uses: sql
    with:
      side: source
      statements: ["SELECT lo_unlink(70002)"]
      done_when: "SELECT count(*) = 1 FROM pg_largeobject_metadata"
"""
NOTICE = """
notifications:
  - {on: [started], timeout: 1s, webhook: {url: "http://127.0.0.1:9/"}}
  - {on: [started], command: ["true"]}
"""
COPY = "{without_replica_identity: full, unlogged: schema_only, large_objects: copy, jobs: 2, chunk_above: 64kB%s}"
CHOSEN = (
    '{without_replica_identity: {"app.log": insert_only, "app.late": copy_at_cutover, "*": full},'
    " unlogged: schema_only, large_objects: skip, jobs: 1%s}"
)
BACK = "{reverse: true, write_pause_budget: 10s%s}"
STREAM = ("publication", "slot", "subscription")


@dataclass(frozen=True, kw_only=True)
class Route:
    """A way through a migration: ``before`` leads to where ``verb`` is broken off.

    ``killed`` are points at which runs before that are killed, each run anew. ``copy``, ``follow`` and ``over`` are
    ``with`` of these steps, ``steps`` stand before them, ``later`` between, ``more`` are keys of the plan. At the end
    the servers show ``leaves`` of planrunner's and no more, and the client writes to ``serves``.
    """

    verb: str = "run"
    options: tuple[str, ...] = ("--yes", "--no-input")
    killed: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    steps: str = ""
    copy: str = "{}"
    follow: str = "{}"
    later: str = ""
    over: str = "{}"
    more: str = ""
    leaves: tuple[str, ...] = ()
    serves: str = "target"
    password: str = "env: TARGET_PASSWORD"
    moves: bool = True


ROUTES = {
    "steps": Route(
        steps=STEPS,
        more=NOTICE,
        copy=COPY % "",
        options=("--yes", "--no-input", "--until", "ready"),
        serves="source",
        moves=False,
        # A child of its own for each session.
        password="command: printenv TARGET_PASSWORD",
    ),
    "whole": Route(
        steps=STEPS,
        copy=COPY % "",
        over=BACK % ", verify: changed",
        leaves=STREAM,
        later=UNLINK + "  - {id: same, uses: verify}\n  - {id: figures, uses: analyze}\n",
    ),
    # The state lies on the target, not beside the plan.
    "home": Route(
        copy=COPY % "",
        options=("--yes", "--no-input", "--state", "target", "--until", "copy"),
        serves="source",
        moves=False,
    ),
    "split": Route(copy=COPY % ", split_above: 128kB, streams: 2"),
    "lost": Route(copy=CHOSEN % "", killed=("copy.after_commit#1",)),
    "begun": Route(copy=COPY % "", killed=("copy.after_commit#3",)),
    "rollback": Route(
        copy=COPY % "",
        over=BACK % "",
        before=("run",),
        verb="rollback",
        options=("--yes",),
        leaves=STREAM,
        serves="source",
    ),
    "cleanup": Route(
        copy=COPY % ", split_above: 128kB",
        over=BACK % "",
        before=("run", "rollback"),
        verb="cleanup",
        options=("--yes",),
        serves="source",
    ),
}
