"""What the data plane's larger pieces of work execute, as an action tells it: by the builders they use themselves."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import dialler
from planrunner.postgres.dialler import Kind
from planrunner.replication import (
    copy,
    fence,
    late,
    ledger,
    logins,
    origins,
    publications,
    ranges,
    return_streams,
    slots,
    subscriptions,
)
from planrunner.replication.jobs import SMALL_BYTES
from planrunner.replication.units import Unit
from planrunner.shapes import ANYTHING, DUMPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

SOURCE, TARGET = "on the source", "on the target"
IF_THERE = "if it is there"
# So many tables are written out; of the others there is the shape.
MOST = 100


def told(statement: sql.Composable | str, *notes: str) -> str:
    """A statement with its remark."""
    text = statement if isinstance(statement, str) else statement.as_string()
    return f"{text}  -- {'; '.join(notes)}" if notes else text


def all_told(statements: Iterable[sql.Composable | str], *notes: str) -> tuple[str, ...]:
    """Several statements with the same remark."""
    return tuple(told(statement, *notes) for statement in statements)


def clearing(names: Names, generation: int) -> tuple[str, ...]:
    """What removes a generation from both servers."""
    stream = names.stream(generation)
    return (
        *all_told(subscriptions.dropping(stream), TARGET, IF_THERE),
        told("SELECT pg_terminate_backend(…)", SOURCE, "if a session holds the slot"),
        told(slots.dropping(stream), SOURCE, IF_THERE),
        told(publications.dropping(names.inserts(generation)), SOURCE),
        *all_told(publications.dropping_barrier(names, generation), TARGET),
        *all_told(publications.dropping_barrier(names, generation), SOURCE),
        told(publications.dropping(stream), SOURCE),
    )


def dropping_tracker(names: Names) -> tuple[str, ...]:
    """What takes the slot away by which a verification sees what changed."""
    return tuple(told(slots.dropping(names.tracker), side, IF_THERE) for side in (SOURCE, TARGET))


def dropping_back(names: Names) -> tuple[str, ...]:
    """What takes the way back away."""
    return (
        *all_told(subscriptions.dropping(names.back), SOURCE, IF_THERE),
        told("SELECT pg_terminate_backend(…)", TARGET, "if a session holds the slot"),
        told(slots.dropping(names.back), TARGET, IF_THERE),
        *dropping_login(names.login_back, TARGET),
        told(publications.dropping(names.back), TARGET),
        told(publications.dropping_marker(names.back_barrier), SOURCE),
        told(publications.dropping_marker(names.back_barrier), TARGET),
    )


def preparing_back(space: Workspace, tables: Sequence[Table]) -> tuple[str, ...]:
    """What a cutover with a way back makes beforehand, and how it tries the subscription."""
    names = space.names
    made = (ledger.CREATE[0], publications.marker_table(names.back_barrier))
    slot = slots.creating(names.back, space.target.version(), failover=space.terms.failover)
    return (
        *dropping_back(names),
        *all_told(made, SOURCE),
        *all_told(made, TARGET),
        *all_told(return_streams.back_publication(space, tables), TARGET),
        told(slot, TARGET),
        *giving_login(space, space.target, Time.ANEW),
        told(back_subscription(space), SOURCE, "tried, and rolled back"),
    )


def back_subscription(space: Workspace) -> sql.Composed:
    """CREATE SUBSCRIPTION of the way back, its password left out."""
    who = logins.chosen(space, space.target)
    named = {} if who.user is None else {"user": who.user}
    return return_streams.subscription_statement(space, {**named, "password": ANYTHING})


class Time(Enum):
    """When a login is given: by the first action that needs it, anew after what was there is dropped, or again."""

    FIRST = "first"
    ANEW = "anew"
    AGAIN = "again"


def giving_login(space: Workspace, server: Server, time: Time) -> tuple[str, ...]:
    """What gives the other side's subscriptions a login of their own on ``server``, where they get one."""
    who = logins.chosen(space, server)
    if who.kind is not Kind.MADE or who.user is None:
        return ()
    if time is Time.AGAIN:
        return login_again(who.user, server.side)
    side, other = (SOURCE, TARGET) if server.side is Side.SOURCE else (TARGET, SOURCE)
    there = [logins.redialling(one, ANYTHING) for one in logins.subscribed(space, server)]
    if time is Time.FIRST and dialler.shown(server, who.user) is not None:
        renewing = dialler.renewing(who.user, until=ANYTHING, secret=ANYTHING)
        return (told(renewing, side), *all_told(there, other))
    return (
        *all_told(making_login(space.names, who.user, dialler.ground(server)), side),
        *all_told(there, other),
    )


def making_login(names: Names, user: str, on: dialler.Ground) -> tuple[sql.Composed, ...]:
    """What makes the role, with what only the run knows left out."""
    return dialler.making(user, names.owner_mark, on, secret=ANYTHING, until=ANYTHING)


def login_again(user: str, dialled: Side) -> tuple[str, ...]:
    """What gives a role another password, which every subscription then uses."""
    side, other = (SOURCE, TARGET) if dialled is Side.SOURCE else (TARGET, SOURCE)
    when = "where another process had set its password"
    renewing = dialler.renewing(user, until=ANYTHING, secret=ANYTHING)
    return (told(renewing, side, when), told("ALTER SUBSCRIPTION … CONNECTION …", other, when))


def dropping_login(name: str, side: str) -> tuple[str, ...]:
    """What removes the login that was made for subscriptions."""
    connect = f'REVOKE CONNECT ON DATABASE … FROM "{name}"'
    return (
        told(connect, side, "where it was granted"),
        told(f'DROP OWNED BY "{name}"', side, "where somebody has granted it more"),
        *all_told(dialler.dropping(name, None), side, IF_THERE),
    )


def secret_of(space: Workspace, server: Server) -> str:
    """Where the password of a subscription comes from, as the plan refers to it; never the password."""
    endpoint, kind = server.endpoint, logins.chosen(space, server).kind
    if kind is Kind.MADE:
        return "its password is random, and kept only here"
    if endpoint.replication is not None:
        return f"its password is {endpoint.replication.password}"
    if endpoint.rds_iam:
        return "its password is a login token of RDS"
    return f"its password is {endpoint.password}" if endpoint.password is not None else "no password"


def starting_back(space: Workspace) -> tuple[str, ...]:
    """What makes the source follow the target."""
    name = space.names.back
    return (
        *giving_login(space, space.target, Time.AGAIN),
        told(back_subscription(space), secret_of(space, space.target)),
        told(subscriptions.owning(space.names, name)),
        told(origins.moving(name, ANYTHING), "where the login may"),
        told(subscriptions.starting(name)),
    )


def following_again(space: Workspace, tables: Sequence[Table], generation: int) -> tuple[str, ...]:
    """What a rollback makes so that the target can follow the source again: all of it before its pause."""
    names = space.names
    slot = slots.creating(names.stream(generation), space.source.version(), failover=space.terms.failover)
    made = "CREATE PUBLICATION …"
    return (
        *clearing(names, generation),
        *all_told(publications.statements(names, generation, ())[:2], SOURCE),
        told(made, SOURCE, f"of {len(tables)} tables"),
        told("COMMENT ON PUBLICATION …", SOURCE),
        told(publications.barrier_table(names, generation), TARGET),
        told(slot, SOURCE),
    )


def owning_ranges(names: Names, generation: int) -> tuple[str, ...]:
    """What takes a generation's own ranges of a truncated table away, on the target."""
    made = (
        f'CREATE OR REPLACE FUNCTION "planrunner"."{names.truncate_part_function(generation)}"() …',
        f'CREATE OR REPLACE TRIGGER … ON "planrunner"."{names.barrier(generation)}" …',
        f'ALTER TABLE "planrunner"."{names.barrier(generation)}" ENABLE ALWAYS TRIGGER …',
    )
    return all_told(made, "where it has copied some ranges of a table and not all")


def subscribing(
    space: Workspace, generation: int, others: Sequence[str], *, left: bool = False, first: bool = True
) -> tuple[str, ...]:
    """What subscribes to a generation's slot and starts applying, on the target.

    While rows are ``left`` to copy it is not known which publications of split tables it names besides its own.
    The ``first`` of a step is given its login.
    """
    names = space.names
    dial = {**logins.dial_parameters(space, space.source), "password": ANYTHING}
    made = subscriptions.statement(
        dial,
        names,
        generation,
        others=others,
        failover=space.terms.failover,
        synchronous=space.terms.synchronous is not False,
    )
    shown = made.as_string()
    if left:
        shown = shown.replace(" WITH (create_slot", "… WITH (create_slot")
    return (
        *giving_login(space, space.source, Time.FIRST if first else Time.AGAIN),
        told(shown, secret_of(space, space.source)),
        told(subscriptions.owning(names, names.stream(generation))),
        *([] if space.freezing is None else [beginning_at_end(names, generation)]),
        *all_told(subscriptions.enabling(names, generation, synchronous=space.terms.synchronous)),
    )


def beginning_at_end(names: Names, generation: int) -> str:
    """What lets a subscription begin where the frozen server ends that its rows came from."""
    return told(origins.moving(names.stream(generation), ANYTHING), "where the frozen standby stood")


def closing(names: Names, tables: Sequence[Table], message: str, there: fence.Standing) -> tuple[str, ...]:
    """Function and triggers that close a side."""
    return all_told(fence.statements(names, tables, message, there))


def lowering(names: Names, tables: Iterable[Table]) -> tuple[str, ...]:
    """What takes a fence away, opened first."""
    return all_told((fence.opening(names), *fence.lowering(names, tables)))


def copying(units: Sequence[Unit], reads: Side = Side.SOURCE) -> tuple[str, ...]:
    """The COPY of each unit, which ``reads`` sends, and what empties a table that is copied alone."""
    shown, rest = units[:MOST], len(units[MOST:])
    alone = [u for u in shown if u.part is None and u.bytes >= SMALL_BYTES]
    names = [sql.Identifier(u.table.schema, u.table.name) for u in alone]
    verbs = ("LOCK TABLE", "TRUNCATE")
    emptied = [sql.SQL("{} ONLY {}").format(sql.SQL(verb), name) for name in names for verb in verbs]
    others = [f"{verb} ONLY …" for verb in verbs] if len(alone) < len(units) else []
    return (
        *all_told(emptied, "where it is copied alone, its rows frozen"),
        *all_told(map(copy.incoming_shape, shown)),
        *all_told(["COPY … FROM STDIN (…)"] if rest else [], f"for each of {rest} more units"),
        *all_told(others, "where a table is copied alone, its rows frozen"),
        *(f"-- from the {reads.value}: {copy.outgoing(unit).as_string()}" for unit in units[:1]),
    )


def _where(*kinds: str) -> tuple[str, ...]:
    return all_told(kinds, DUMPED, "where the source has such")


# What pg_dump writes of each kind; it lists objects under a snapshot that only the run takes.
_ABOUT = _where("COMMENT ON …", "GRANT …", "REVOKE …", "ALTER … OWNER TO …", "ALTER DEFAULT PRIVILEGES …")
DUMP_LOCKS = told("LOCK TABLE … IN ACCESS SHARE MODE", SOURCE, "pg_dump's own")
PRE_DATA = (
    DUMP_LOCKS,
    *all_told(
        ("GRANT CREATE ON SCHEMA public TO …", "REVOKE CREATE ON SCHEMA public FROM …"),
        "where an owner may not create there; taken back before the commit",
    ),
    told("CREATE TABLE …", DUMPED),
    *_where(
        *(f"CREATE {kind} …" for kind in ("SCHEMA", "EXTENSION", "TYPE", "DOMAIN", "FUNCTION", "PROCEDURE")),
        *(f"CREATE {kind} …" for kind in ("AGGREGATE", "OPERATOR", "CAST", "COLLATION", "CONVERSION")),
        *(f"CREATE {kind} …" for kind in ("TEXT SEARCH", "FOREIGN", "SERVER", "USER MAPPING", "LANGUAGE")),
        *(f"CREATE {kind} …" for kind in ("SEQUENCE", "VIEW", "MATERIALIZED VIEW", "UNLOGGED TABLE")),
        "ALTER SEQUENCE …",
        "ALTER TABLE … ADD GENERATED …",
        "ALTER TABLE … SET DEFAULT …",
        "ALTER TABLE … ATTACH PARTITION …",
        "ALTER TABLE … SET STATISTICS …",
        "ALTER TABLE … SET STORAGE …",
        "ALTER TABLE … SET (…)",
        "ALTER TABLE … FORCE ROW LEVEL SECURITY",
    ),
    *_ABOUT,
)
POST_DATA = (
    *_where(
        "CREATE INDEX …",
        "CREATE UNIQUE INDEX …",
        "ALTER INDEX …",
        "ALTER TABLE … ADD CONSTRAINT …",
        "ALTER TABLE … VALIDATE CONSTRAINT …",
        "ALTER TABLE … CLUSTER ON …",
        "ALTER TABLE … REPLICA IDENTITY …",
        "ALTER TABLE … TRIGGER …",
        "ALTER TABLE … ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE … RULE …",
        *(f"CREATE {kind} …" for kind in ("TRIGGER", "CONSTRAINT TRIGGER", "RULE", "POLICY", "STATISTICS")),
        "CREATE EVENT TRIGGER …",
        "ALTER EVENT TRIGGER …",
        "CREATE OR REPLACE VIEW …",
        "ALTER STATISTICS …",
    ),
    *_ABOUT,
)
FOREIGN_KEYS = (
    told("ALTER TABLE … ADD CONSTRAINT … FOREIGN KEY …", DUMPED),
    *_where("ALTER TABLE … VALIDATE CONSTRAINT …", "CREATE UNIQUE INDEX …", "ALTER TABLE … ADD CONSTRAINT …"),
)


def bringing_late(tables: Sequence[Table]) -> tuple[str, ...]:
    """What copies tables whole inside the cutover's pause."""
    if not tables:
        return ()
    names = [sql.Identifier(t.schema, t.name) for t in tables]
    silent = [sql.SQL("ALTER TABLE ONLY {} DISABLE TRIGGER USER").format(name) for name in names]
    again = [sql.SQL("ALTER TABLE ONLY {} ENABLE ").format(name).as_string() + "…TRIGGER …" for name in names]
    return (
        *all_told(silent, TARGET, "where it has triggers"),
        told(late.emptying(tables), TARGET),
        *all_told((copy.incoming(Unit(table=table)) for table in tables), TARGET),
        *all_told(again, TARGET, "where it has triggers"),
    )


# In the order in which ``large_objects`` executes them, in pieces of 1 MB.
LARGE_OBJECTS = all_told(
    (
        "SELECT lo_unlink(oid) FROM unnest(…) oid",
        "SELECT lo_create(oid) FROM unnest(…) oid",
        "SELECT lo_put(…)",
        "ALTER LARGE OBJECT … OWNER TO …",
        "GRANT … ON LARGE OBJECT … TO …",
        "REVOKE … ON LARGE OBJECT … FROM …",
        "COMMENT ON LARGE OBJECT … IS …",
    ),
    TARGET,
    "where a large object is new or differs",
)
SEQUENCES = told(
    "SELECT setval(v.sequence::oid::regclass, v.last, v.called) FROM unnest(…) v(sequence, last, called)",
    "where a sequence of the other side is ahead",
)


def using_tracker(space: Workspace, *, side: str) -> tuple[str, ...]:
    """The slot by which a comparison sees what changed since it looked; made, read and dropped."""
    name = space.names.tracker
    server = space.source if side == SOURCE else space.target
    slot = slots.creating(name, server.version(), failover=space.terms.failover)
    when = "where the comparison begins before the pause"
    return (
        *dropping_tracker(space.names),
        told(slot, side, when),
        told("SELECT pg_replication_slot_advance(…", side, when),
    )


def unsplitting(names: Names) -> tuple[str, ...]:
    """What takes away the source's publications of ranges and of wholes, and their triggers."""
    publications_of = (f'DROP PUBLICATION IF EXISTS "{names.plan_prefix}{kind}…"' for kind in ("r", "s"))
    return (*publications_of, ranges.dropping_function(names).as_string())


def splitting(names: Names, tables: Sequence[Table]) -> tuple[str, ...]:
    """What the source gets for tables that are cut into ranges."""
    if not tables:
        return ()
    when = "unless no table can be cut"
    function = f'CREATE OR REPLACE FUNCTION "planrunner"."{names.truncate_function}"() …'
    made = (
        "CREATE PUBLICATION … FOR TABLE …",
        "COMMENT ON PUBLICATION … IS …",
    )
    triggers = [
        sql.SQL(text).format(sql.Identifier(t.schema, t.name)).as_string().replace("?", ANYTHING)
        for t in tables
        for text in (
            "CREATE TRIGGER ? BEFORE TRUNCATE ON {} ?",
            "ALTER TABLE ONLY {} ENABLE ALWAYS TRIGGER ?",
        )
    ]
    return (
        *all_told(unsplitting(names), SOURCE, "if an earlier attempt left it"),
        *all_told((publications.statements(names, 0, ())[0], function, *made, *triggers), SOURCE, when),
    )


def joining(names: Names, held: Sequence[int]) -> tuple[str, ...]:
    """What joins the streams of several generations at one commit of the source."""
    first = max(held) + 1
    stream = names.stream(first)
    made = publications.statements(names, first, ())
    return (
        *all_told(made[:2], SOURCE),
        told("CREATE PUBLICATION … FOR TABLE …", SOURCE, "of what the joined streams follow"),
        told("COMMENT ON PUBLICATION … IS …", SOURCE),
        *login_again(names.login, Side.SOURCE),
        told(
            f"CREATE OR REPLACE FUNCTION {names.truncate_function}…",
            SOURCE,
            "where tables are split",
        ),
        told(publications.barrier_table(names, first)),
        told(slots.creating(stream, 0, failover=False).as_string().removesuffix(")") + "…)", SOURCE),
        'CREATE OR REPLACE FUNCTION "planrunner"."stop_…',
        "DROP TRIGGER IF EXISTS … ON …",
        'CREATE TRIGGER … AFTER INSERT ON "planrunner"."barrier_…',
        'ALTER TABLE "planrunner"."barrier_… ENABLE ALWAYS TRIGGER …',
        told('INSERT INTO "planrunner"."barrier_… (token, stop) VALUES …', SOURCE),
        told("SELECT pg_replication_slot_advance(…", SOURCE),
        "CREATE SUBSCRIPTION …",
        "COMMENT ON SUBSCRIPTION … IS …",
        told(origins.moving(stream, ANYTHING), "where the login may"),
        "ALTER SUBSCRIPTION … ENABLE",
        *(statement for generation in held for statement in clearing(names, generation)),
    )
