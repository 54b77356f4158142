"""A database in which every object of every kind has a hostile name, and every row, comment and label a hostile text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from tests.faults.hostile_names import CANARY, NAMES, SINGER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.scene import Migration

WORDS = tuple(hostile.name for hostile in NAMES)
COUNT = len(WORDS)
ROWS = 8
# Every so many schemas hold a table that is cut into chunks, and one that is cut into ranges.
CHUNKED_EVERY, SPLIT_EVERY = 7, 70
_FILL = 220
_PATIENCE_SECONDS = 900


def word(number: int) -> str:
    """The names in a ring, so that each kind of object of a schema has another one of them."""
    return WORDS[number % COUNT]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The objects of schema ``number``; every name is used once for every kind."""

    number: int

    @property
    def schema(self) -> str:
        return word(self.number)

    def name(self, further: int) -> str:
        return word(self.number + further)

    def named(self, further: int) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name(further))

    def column(self, further: int) -> sql.Identifier:
        return sql.Identifier(self.name(further))

    @property
    def main(self) -> tuple[str, str]:
        """The table with a key, by what columns it has and how it is copied."""
        return self.schema, self.name(0)

    @property
    def trigger(self) -> str:
        """The table's trigger; that name is ours alone where writes are to be stopped."""
        return self.name(0) + "!" if self.name(0) == "planrunner_fence" else self.name(0)

    @property
    def bare(self) -> tuple[str, str]:
        """The table without a key."""
        return self.schema, self.name(11)

    @property
    def spare(self) -> tuple[str, str]:
        """The table of which the plan's filters say what becomes."""
        return self.schema, self.name(18)

    @property
    def rows(self) -> int:
        if self.number % SPLIT_EVERY == 0:
            return 6000
        return 600 if self.number % CHUNKED_EVERY == 0 else ROWS


PLACES = tuple(Place(number=number) for number in range(COUNT))
# Tables whose qualified names are the same letters.
TWINS = (("a", "b.c"), ("a.b", "c"), ('"a"', "b"), ("a", '"b'), ('a"', "b"))


def patiently(one: Migration, verb: str, *options: str) -> tuple[int, str]:
    """As the scene's ``run``, with time for thousands of objects on a busy machine."""
    child = one.start(verb, *options)
    try:
        said, _ = child.communicate(timeout=_PATIENCE_SECONDS)
    finally:
        child.kill()
    return child.returncode, said


def written(schema: str, name: str) -> str:
    """The plan's pattern for one table, written by hand."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))


def yaml(text: str) -> str:
    """A text as YAML's double-quoted scalar, in ASCII."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in plain)


def value(text: str) -> str:
    """A text as a plan's value: where it reads as a template, as the template that gives it."""
    reads = any(mark in text for mark in ("{{", "{%", "{#"))
    return yaml("{{ " + _literal(text) + " }}") if reads else yaml(text)


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def way(place: Place, ways: Sequence[str]) -> str:
    """What the plan chooses for the schema's table without a key: one of each by turns."""
    return ways[place.number % len(ways)]


def _choice(place: Place, ways: Sequence[str]) -> str:
    chosen = way(place, ways)
    return f"{{index: {value(place.name(12))}}}" if chosen == "index" else chosen


def has_spare(place: Place) -> bool:
    """Every fifth schema has a table that a filter rules."""
    return place.number % 5 == 0


def left_out(place: Place) -> bool:
    return place.number % 15 == 0


def empty(place: Place) -> bool:
    return place.number % 15 == 5


def filtered(place: Place) -> bool:
    return place.number % 15 == 10


def options(ways: Sequence[str]) -> str:
    """The options of the snapshot step, as YAML in braces; tables without a key are named one by one."""
    chosen = ", ".join(f"{yaml(written(*p.bare))}: {_choice(p, ways)}" for p in PLACES)
    out = ", ".join(value(written(*p.spare)) for p in PLACES if left_out(p))
    only = ", ".join(value(written(*p.spare)) for p in PLACES if empty(p))
    rows = ", ".join(
        f"{yaml(written(*p.spare))}: {value(f'{p.column(0).as_string()} > {ROWS // 2}')}"
        for p in PLACES
        if filtered(p)
    )
    return (
        "{jobs: 2, chunk_above: 64kB, split_above: 1MB, large_objects: copy,"
        f" without_replica_identity: {{{chosen}}},"
        f" filters: {{exclude: [{out}], schema_only: [{only}], rows: {{{rows}}}}}}}"
    )


def script() -> str:
    """Everything, as one script for a superuser in an empty database."""
    return ";\n".join(statement.as_string() for statement in _statements())


def canary() -> str:
    """The canary alone."""
    return ";\n".join(statement.as_string() for statement in _canary())


def _statements() -> Iterator[sql.Composable]:
    yield sql.SQL("SET client_min_messages = error")
    yield from _canary()
    for name in WORDS:
        role = sql.Identifier(name)
        yield sql.SQL("CREATE ROLE {}").format(role)
        yield sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(name))
        yield sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role)
        yield sql.SQL("COMMENT ON SCHEMA {} IS {}").format(role, sql.Literal(name))
    for place in PLACES:
        yield from _types(place)
        yield from _main(place)
        yield from _hung_on_main(place)
        yield from _relations(place)
        yield from _partitions(place)
        yield from _bare(place)
        if has_spare(place):
            yield from _spare(place)
        yield from _rights(place)
    yield from _twins()


def _canary() -> Iterator[sql.Composable]:
    canary, singer = sql.Identifier("public", CANARY), sql.Identifier("public", SINGER)
    yield sql.SQL("CREATE TABLE {} (song text PRIMARY KEY)").format(canary)
    yield sql.SQL("INSERT INTO {} VALUES ('silence')").format(canary)
    yield sql.SQL(
        "CREATE FUNCTION {}() RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS"
        " 'INSERT INTO {} VALUES (gen_random_uuid()) RETURNING song'"
    ).format(singer, canary)


def _types(place: Place) -> Iterator[sql.Composable]:
    enum, domain, composite = (place.named(further) for further in (16, 17, 15))
    labels = sql.SQL(", ").join([sql.Literal(place.name(0)), sql.Literal(place.name(1))])
    yield sql.SQL("CREATE TYPE {} AS ENUM ({})").format(enum, labels)
    yield sql.SQL("CREATE DOMAIN {} AS text DEFAULT {} CONSTRAINT {} CHECK (VALUE <> {})").format(
        domain, sql.Literal(place.name(2)), place.column(3), sql.Literal(place.name(4) + "!")
    )
    yield sql.SQL("CREATE TYPE {} AS ({} int, {} text)").format(composite, place.column(0), place.column(1))
    yield sql.SQL('CREATE COLLATION {} FROM "C"').format(place.named(0))
    for kind, name in (("TYPE", enum), ("DOMAIN", domain), ("TYPE", composite)):
        yield sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(kind), name, sql.Literal(place.name(5)))


def _main(place: Place) -> Iterator[sql.Composable]:
    # A composite goes as text, the others' rows in binary.
    composite = place.number % 2 == 0
    yield sql.SQL(
        "CREATE TABLE {table} ({id} bigint GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME {sequence})"
        " CONSTRAINT {key} PRIMARY KEY, {text} text NOT NULL COLLATE {collation} CONSTRAINT {unique} UNIQUE,"
        " {enum} {enum_type} DEFAULT {label}, {domain} {domain_type}, {made} text GENERATED ALWAYS AS"
        " ({text} || {suffix}) STORED, {fill} text{composite}, CONSTRAINT {check} CHECK ({id} > 0))"
    ).format(
        table=place.named(0),
        id=place.column(0),
        sequence=place.named(1),
        key=place.column(2),
        text=place.column(1),
        collation=place.named(0),
        unique=place.column(3),
        enum=place.column(2),
        enum_type=place.named(16),
        label=sql.Literal(place.name(1)),
        domain=place.column(3),
        domain_type=place.named(17),
        made=place.column(5),
        suffix=sql.Literal(place.name(6)),
        fill=place.column(7),
        composite=sql.SQL(", {} {}").format(place.column(4), place.named(15)) if composite else sql.SQL(""),
        check=place.column(0),
    )
    yield _filling(place, composite=composite)
    yield sql.SQL("COMMENT ON TABLE {} IS {}").format(place.named(0), sql.Literal(place.name(8)))
    yield sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
        place.named(0), place.column(1), sql.Literal(place.name(9))
    )


def _filling(place: Place, *, composite: bool) -> sql.Composed:
    texts = sql.SQL(", ").join([sql.Literal(place.name(further)) for further in range(ROWS)])
    return sql.SQL(
        "INSERT INTO {table} ({text}, {domain}, {fill}{column}) SELECT w.word[1 + n % {rows}] || {mark} || n,"
        " w.word[1 + (n + 3) % {rows}], {fillings}{value}"
        " FROM generate_series(1, {count}) n, (SELECT ARRAY[{texts}]) AS w(word)"
    ).format(
        table=place.named(0),
        text=place.column(1),
        domain=place.column(3),
        fill=place.column(7),
        column=sql.SQL(", {}").format(place.column(4)) if composite else sql.SQL(""),
        rows=sql.Literal(ROWS),
        mark=sql.Literal(place.name(10)),
        fillings=sql.SQL("repeat('.', {})").format(sql.Literal(_FILL if place.rows > ROWS else 1)),
        value=sql.SQL(", ROW(n, w.word[1 + n % {}])::{}").format(sql.Literal(ROWS), place.named(15))
        if composite
        else sql.SQL(""),
        count=sql.Literal(place.rows),
        texts=texts,
    )


def _hung_on_main(place: Place) -> Iterator[sql.Composable]:
    table = place.named(0)
    yield sql.SQL("CREATE INDEX {} ON {} ({}, ({} || {}))").format(
        place.column(4), table, place.column(2), place.column(1), sql.Literal(place.name(7))
    )
    yield sql.SQL("CREATE STATISTICS {} ON {}, {} FROM {}").format(
        place.named(0), place.column(1), place.column(2), table
    )
    body = sql.Literal(f"BEGIN IF '{CANARY}' = 'sung' THEN RAISE 'sung'; END IF; RETURN NEW; END")
    yield sql.SQL("CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS {}").format(place.named(0), body)
    yield sql.SQL("CREATE TRIGGER {} BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION {}({})").format(
        sql.Identifier(place.trigger), table, place.named(0), sql.Literal(place.name(1))
    )
    yield sql.SQL("CREATE POLICY {} ON {} TO {} USING ({} <> {})").format(
        place.column(0), table, place.column(1), place.column(1), sql.Literal(place.name(2))
    )
    yield sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(place.column(0), table)
    for kind, name in (("TRIGGER", place.trigger), ("POLICY", place.name(0)), ("CONSTRAINT", place.name(0))):
        yield sql.SQL("COMMENT ON {} {} ON {} IS {}").format(
            sql.SQL(kind), sql.Identifier(name), table, sql.Literal(place.name(3))
        )


def _relations(place: Place) -> Iterator[sql.Composable]:
    sequence, view, stored = (place.named(further) for further in (5, 6, 14))
    yield sql.SQL("CREATE SEQUENCE {} START {}").format(sequence, sql.Literal(place.number + 5))
    yield sql.SQL("SELECT nextval({}::regclass)").format(sql.Literal(sequence.as_string()))
    columns = sql.SQL(", ").join([place.column(0), place.column(1)])
    for kind, name in (("VIEW", view), ("MATERIALIZED VIEW", stored)):
        yield sql.SQL("CREATE {} {} AS SELECT {}, {}::text AS {} FROM {}").format(
            sql.SQL(kind), name, columns, sql.Literal(place.name(2)), place.column(2), place.named(0)
        )
    for kind, name in (("SEQUENCE", sequence), ("VIEW", view), ("MATERIALIZED VIEW", stored)):
        yield sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(kind), name, sql.Literal(place.name(4)))


def _partitions(place: Place) -> Iterator[sql.Composable]:
    parent, part = place.named(7), place.named(9)
    first, second = sql.Literal(place.name(0)), sql.Literal(place.name(1))
    yield sql.SQL(
        "CREATE TABLE {} ({} int, {} text, CONSTRAINT {} PRIMARY KEY ({}, {})) PARTITION BY LIST ({})"
    ).format(
        parent,
        place.column(0),
        place.column(1),
        place.column(8),
        place.column(0),
        place.column(1),
        place.column(1),
    )
    yield sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES IN ({}, {})").format(
        part, parent, first, second
    )
    yield sql.SQL("INSERT INTO {} VALUES (1, {}), (2, {}), (3, {})").format(parent, first, second, first)


def _bare(place: Place) -> Iterator[sql.Composable]:
    table = place.named(11)
    yield sql.SQL("CREATE TABLE {} ({} bigint NOT NULL, {} text)").format(
        table, place.column(0), place.column(1)
    )
    yield sql.SQL("CREATE UNIQUE INDEX {} ON {} ({})").format(place.column(12), table, place.column(0))
    yield sql.SQL("INSERT INTO {} SELECT n, {} || n FROM generate_series(1, 5) n").format(
        table, sql.Literal(place.name(1))
    )
    yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})").format(
        table, place.column(1), place.column(0), place.named(0), place.column(0)
    )


def _spare(place: Place) -> Iterator[sql.Composable]:
    yield sql.SQL("CREATE TABLE {} ({} int CONSTRAINT {} PRIMARY KEY)").format(
        sql.Identifier(*place.spare), place.column(0), place.column(19)
    )
    yield sql.SQL("INSERT INTO {} SELECT generate_series(1, {})").format(
        sql.Identifier(*place.spare), sql.Literal(ROWS)
    )


def _rights(place: Place) -> Iterator[sql.Composable]:
    owner, friend, table = place.column(0), place.column(1), place.named(0)
    yield sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, owner)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {} WITH GRANT OPTION").format(owner, friend)
    yield sql.SQL("GRANT SELECT, INSERT ON {} TO {}").format(table, friend)
    yield sql.SQL("GRANT UPDATE ({}) ON {} TO {}").format(place.column(1), table, friend)
    yield sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT SELECT ON TABLES TO {}").format(
        owner, owner, friend
    )
    if place.number % 2 == 0:
        # In pairs: memberships may not go round the ring.
        yield sql.SQL("GRANT {} TO {}").format(friend, owner)
    yield sql.SQL("SELECT lo_from_bytea({}, {})").format(
        sql.Literal(100_000 + place.number), sql.Literal(place.schema.encode())
    )
    number = sql.Literal(100_000 + place.number)
    yield sql.SQL("ALTER LARGE OBJECT {} OWNER TO {}").format(number, owner)
    yield sql.SQL("COMMENT ON LARGE OBJECT {} IS {}").format(number, sql.Literal(place.name(1)))


def _twins() -> Iterator[sql.Composable]:
    for schema in sorted({schema for schema, _ in TWINS} - set(WORDS)):
        yield sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema))
    for number, twin in enumerate(TWINS):
        table = sql.Identifier(*twin)
        stored = sql.Identifier(twin[0], twin[1] + " seen")
        yield sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, at serial)").format(table)
        yield sql.SQL("INSERT INTO {} SELECT generate_series(1, {})").format(table, sql.Literal(number + 1))
        yield sql.SQL("CREATE MATERIALIZED VIEW {} AS SELECT * FROM {}").format(stored, table)
