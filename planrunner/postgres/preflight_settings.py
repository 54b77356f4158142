"""Preflight of the servers' settings: what loses data, ends sessions that are not ours to pin, or makes all slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Fix, Side
from planrunner.postgres.preflight_parameters import changing, for_our_login, read
from planrunner.postgres.preflight_section import CAPACITY, Check, counted
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_parameters import Parameter

KEPT_WAL = Check(
    code="PR0515",
    section=CAPACITY,
    title="The source keeps the WAL of a slot long enough",
    why="A slot that is given up can't be continued: the copy begins anew.",
)
IDLE_SLOT = Check(
    code="PR0516",
    section=CAPACITY,
    title="The source gives no slot up for being idle",
    why="While rows are copied nobody reads the slot; given up in the meantime, the copy was for nothing.",
)
LINE_TIMEOUT = Check(
    code="PR0517",
    section=CAPACITY,
    title="The stream's line is not cut too soon",
    why="The applying side answers only now and then while it works on a large transaction. A line that is cut sooner"
    " than that begins the transaction anew, again and again.",
)
DURABLE = Check(
    code="PR0518",
    section=CAPACITY,
    title="The target's writes survive a crash",
    why="Without fsync or full_page_writes a crash of the target's machine can corrupt the whole database, after the"
    " cutover too.",
)
COMMITS = Check(
    code="PR0519",
    section=CAPACITY,
    title="No commit waits for a standby that is not there",
    why="With synchronous_standby_names each commit waits until standbys confirm it; where too few of them stream, ours"
    " wait without end, as the application's do.",
)
VACUUMED = Check(
    code="PR0520",
    section=CAPACITY,
    title="The target vacuums by itself",
    why="Applied updates and deletes leave dead rows behind; without autovacuum tables and indexes swell, and queries"
    " after the cutover are planned by statistics that nobody renews.",
)
WORKER_TIMEOUT = Check(
    code="PR0521",
    section=CAPACITY,
    title="No timeout ends the apply worker",
    why="Our sessions set their own timeouts, the apply worker takes those of its database and of the subscription's"
    " owner. One that ends it during a large transaction ends it at each attempt, and the stream never gets past.",
)
READ_ONLY = Check(
    code="PR0522",
    section=CAPACITY,
    title="The target's sessions begin writable",
    why="Our sessions and the apply worker write all the same, but the application's would be refused after the cutover.",
)
TEMP_FILES = Check(
    code="PR0523",
    section=CAPACITY,
    title="Temporary files may grow as large as the largest index",
    why="An index is built by sorting its rows, in temporary files once they outgrow the memory; temp_file_limit ends"
    " the build.",
)
CHECKPOINTS = Check(
    code="PR0524",
    section=CAPACITY,
    title="The target's max_wal_size suits the amount of data",
    why="A copy writes as much WAL as rows; each max_wal_size of it forces a checkpoint, and many of them make the"
    " copy slow.",
)

# Of the source's largest index: what a sort of its entries would write at most.
_LARGEST_INDEX = """
SELECT coalesce(max(pg_relation_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'i' AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner')
"""
# A login that may not see it gets no sync_state: it can't be told, then, whether a standby confirms.
_CONFIRMING = """
SELECT count(*) FILTER (WHERE sync_state IN ('sync', 'quorum'))::int, count(*) FILTER (WHERE sync_state IS NULL)::int
FROM pg_stat_replication
"""
_SHORTEST_LINE_MS = 10_000
_WORKER_TIMEOUTS = ("lock_timeout", "transaction_timeout")
_CHECKPOINT_MB = 4096
_LARGE_BYTES = 10 << 30
_SOURCE_NAMES = (
    "idle_replication_slot_timeout",
    "wal_sender_timeout",
    "synchronous_standby_names",
    "synchronous_commit",
)
_TARGET_NAMES = (
    "fsync",
    "full_page_writes",
    "autovacuum",
    "track_counts",
    "wal_receiver_timeout",
    "synchronous_standby_names",
    "synchronous_commit",
    "default_transaction_read_only",
    "temp_file_limit",
    "max_wal_size",
    *_WORKER_TIMEOUTS,
)


def source(server: Server) -> Iterator[Finding]:
    """Limits that would cost the slot, cut its line, or stop our commits."""
    known = read(server, _SOURCE_NAMES)
    yield from _idle_slot(server, known.get("idle_replication_slot_timeout"))
    yield _line(server, known["wal_sender_timeout"])
    yield from _commits(server, known)


def target(server: Server, size: int) -> Iterator[Finding]:
    """Durability, vacuum, timeouts and other settings that bear on applying; ``size`` is what will arrive, in bytes."""
    known = read(server, _TARGET_NAMES)
    yield from _switches(
        server, known, DURABLE, ("fsync", "full_page_writes"), "Target's writes survive a crash"
    )
    yield from _switches(server, known, VACUUMED, ("autovacuum", "track_counts"), "Target vacuums by itself")
    yield _line(server, known["wal_receiver_timeout"])
    yield from _commits(server, known)
    yield from _timeouts(server, [known[name] for name in _WORKER_TIMEOUTS if name in known])
    yield _writable(server, known["default_transaction_read_only"])
    yield from _checkpoints(server, known["max_wal_size"], size)


def _idle_slot(server: Server, parameter: Parameter | None) -> Iterator[Finding]:
    if parameter is not None and parameter.number > 0:
        yield IDLE_SLOT.warned(
            f"Source gives a slot up once it was idle for {parameter.number} s, as ours is while rows are copied",
            changing(server, parameter, "0"),
        )


def _line(server: Server, parameter: Parameter) -> Finding:
    shortest = int(parameter.default)
    side = server.side.value
    if 0 < shortest < _SHORTEST_LINE_MS:
        return LINE_TIMEOUT.warned(
            f"The {side}'s {parameter.name} cuts the line after {shortest} ms without an answer",
            changing(server, parameter, "60000"),
        )
    shown = f"{shortest // 1000} s" if shortest else "off"
    return LINE_TIMEOUT.passed(f"The {side}'s {parameter.name} leaves time to answer ({shown})")


def _switches(
    server: Server, known: Mapping[str, Parameter], check: Check, names: Sequence[str], well: str
) -> Iterator[Finding]:
    off = [known[name] for name in names if name in known and known[name].value == "off"]
    for parameter in off:
        yield check.warned(
            f"{server.side.value.capitalize()}'s {parameter.name} is off", changing(server, parameter, "on")
        )
    if not off:
        yield check.passed(well)


def _commits(server: Server, known: Mapping[str, Parameter]) -> Iterator[Finding]:
    named, level = known["synchronous_standby_names"], known["synchronous_commit"].default
    if not named.value or level in {"off", "local"}:
        return
    row = server.row(_CONFIRMING)
    assert row is not None
    confirming, hidden = row
    side = server.side.value.capitalize()
    text = f"{side}'s commits wait for standbys: synchronous_standby_names is {named.value}"
    remedy = f"Start a standby that it names, or let commits wait for none. {changing(server, named, '')}"
    if confirming:
        yield COMMITS.passed(
            f"{text}, {counted(confirming, 'standby')[:-1]}{'ies' if confirming > 1 else 'y'} confirm"
        )
    elif hidden:
        yield COMMITS.warned(f"{text}, and our login can't see whether any of {hidden} confirms", remedy)
    else:
        yield COMMITS.failed(f"{text}, and none confirms", remedy)


def _timeouts(server: Server, parameters: Sequence[Parameter]) -> Iterator[Finding]:
    short = [one for one in parameters if int(one.default) > 0]
    for one in short:
        statement = for_our_login(server, one.name, "0")
        yield WORKER_TIMEOUT.warned(
            f"Target's {one.name} is {one.default} ms for the apply worker too",
            f"Run on the target: {statement}",
            fix=Fix(where=Side.TARGET, statements=(statement,)),
        )
    if not short:
        yield WORKER_TIMEOUT.passed("No timeout of the target ends the apply worker")


def _writable(server: Server, parameter: Parameter) -> Finding:
    if parameter.default == "off":
        return READ_ONLY.passed("Target's sessions begin writable")
    database = sql.Identifier(str(server.value("SELECT current_database()::text")))
    statement = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = off;").format(database)
    # No fix of ours: someone may keep writers away on purpose until the cutover.
    return READ_ONLY.warned(
        "Target's default_transaction_read_only is on: the application could not write there",
        f"Run on the target as the database's owner: BEGIN READ WRITE; {statement.as_string()} COMMIT;",
    )


def _checkpoints(server: Server, parameter: Parameter, size: int) -> Iterator[Finding]:
    if size >= _LARGE_BYTES and parameter.number < _CHECKPOINT_MB:
        yield CHECKPOINTS.warned(
            f"Target's max_wal_size is {human_bytes(parameter.number << 20)}, for {human_bytes(size)} that arrive",
            changing(server, parameter, str(_CHECKPOINT_MB)),
        )


def temp_files(source: Server, target: Server) -> Iterator[Finding]:
    """Whether the target's temp_file_limit lets the source's largest index be built."""
    known = read(target, ["temp_file_limit"]).get("temp_file_limit")
    if known is None or known.number < 0:
        return
    largest = int(source.value(_LARGEST_INDEX) or 0)
    limit = known.number << 10
    if limit >= largest:
        yield TEMP_FILES.passed(f"Target's temp_file_limit ({human_bytes(limit)}) lets every index be built")
        return
    yield TEMP_FILES.warned(
        f"Target's temp_file_limit is {human_bytes(limit)}, the source's largest index {human_bytes(largest)}",
        changing(target, known, str(-(-largest // 1024) * 2)),
    )
