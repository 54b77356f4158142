"""Rounds without logical decoding: every changed row is found, whatever its xmin; what is gone, by comparing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.errors import QueryFailed, StepFailed
from planrunner.postgres import catalog
from planrunner.replication import polling_following, polling_horizon, polling_ledger, polling_reconcile
from planrunner.replication.polling import How, go_round
from planrunner.replication.terms import Pace, Terms
from tests.integration.replication.conftest import dsn_of
from tests.integration.replication.stage import BROKEN, end_who
from tests.integration.replication.test_repair import GUARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.replication.polling import Figures
    from planrunner.sandbox.servers import PostgresServer
    from tests.integration.replication.conftest import Streams

    Make = Callable[..., Streams]

ROWS = (
    "INSERT INTO orders SELECT i, 'note ' || i, 'c' || i, 'sad' FROM generate_series(1, 300) i",
    "INSERT INTO lines SELECT i, i FROM generate_series(1, 20) i",
    "INSERT INTO bare SELECT i % 5, 'b' FROM generate_series(1, 40) i",
)


@pytest.fixture
def polled(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    """Both sides with the same rows, every table looked at once."""
    terms = Terms(pace=Pace(interval=0.1, reconcile=3600))
    made = streams(source_server, target_server, following=False, terms=terms)
    made.source(*ROWS)
    with made.space.source.session(read_only=True) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        polling_ledger.remember(made.space, 1, polling_horizon.now(session))
    once(made)
    assert alike(made)
    return made


def once(streams: Streams, *, compare: bool = False) -> Figures:
    return go_round(streams.space, How(compare=compare))


def rows(streams: Streams, table: str) -> tuple[list[Any], list[Any]]:
    query = f"SELECT t::text FROM {table} t ORDER BY 1"
    return streams.source(query), streams.target(query)


def alike(streams: Streams) -> bool:
    return all(a == b for a, b in (rows(streams, t) for t in ("orders", "lines", "bare")))


@contextmanager
def open_transaction(streams: Streams, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn_of(streams.space.source)) as session:
        for statement in statements:
            session.execute(statement.encode())
        yield session


def test_a_round_brings_what_was_inserted_and_updated_and_nothing_else(polled: Streams) -> None:
    polled.source(
        "INSERT INTO orders VALUES (900, 'new', 'c900', 'glad')", "UPDATE orders SET note = 'x' WHERE id = 3"
    )

    found = once(polled)

    assert (found.brought, found.removed, found.compared) == (2, 0, 0)
    assert alike(polled)
    assert once(polled).brought == 0


def test_a_row_of_a_savepoint_that_was_open_at_the_last_round_is_found(polled: Streams) -> None:
    with open_transaction(polled, "INSERT INTO lines VALUES (100, 1)") as session:
        polled.source("UPDATE lines SET n = n + 1 WHERE id = 1")
        session.execute("SAVEPOINT a")
        session.execute("INSERT INTO lines VALUES (101, 1)")
        polled.source("UPDATE lines SET n = n + 1 WHERE id = 2")
        # The subtransaction's xid lies below the next one, and in no snapshot's list.
        once(polled)
        assert rows(polled, "lines")[1] == rows(polled, "lines")[0]
        session.commit()
    once(polled)

    assert alike(polled)


def test_a_transaction_held_open_over_many_rounds_loses_nothing(polled: Streams) -> None:
    with open_transaction(polled, "UPDATE orders SET note = 'held' WHERE id = 7") as session:
        for number in range(4):
            polled.source(f"UPDATE lines SET n = {number} WHERE id = 5")
            once(polled)
        session.execute("INSERT INTO orders VALUES (901, 'late', 'c901', 'sad')")
        once(polled)
        session.commit()
    once(polled)

    assert alike(polled)


def test_who_holds_the_horizon_is_told(polled: Streams) -> None:
    with open_transaction(polled, "UPDATE orders SET note = 'held' WHERE id = 7") as session:
        found = [once(polled)]
        polled.source("UPDATE lines SET n = 9 WHERE id = 5")
        found.append(once(polled))
        horizon = found[1].horizon
        assert horizon is not None
        who = polling_horizon.holder(polled.space.source, horizon)
        assert who is not None
        assert f"process {session.info.backend_pid} " in who
        polling_following.tell(polled.space, found[1], found[0])
    assert "keeps the horizon where it was" in polled.told[-1]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_prepared_transaction_open_over_many_rounds_is_brought_once_or_never(
    polled: Streams, end: str
) -> None:
    polled.source(
        "BEGIN; INSERT INTO orders VALUES (903, 'in doubt', 'c903', 'sad'); SAVEPOINT a;"
        " UPDATE lines SET n = 99 WHERE id < 4; DELETE FROM orders WHERE id = 8; PREPARE TRANSACTION 'teller 7'"
    )
    before = rows(polled, "orders")[1]
    found = [once(polled)]
    for number in range(3):
        polled.source(f"UPDATE lines SET n = {number} WHERE id = 10", "VACUUM (FREEZE) lines")
        found.append(once(polled, compare=number == 1))
    assert rows(polled, "orders")[1] == before
    horizon = found[-1].horizon
    assert horizon is not None
    who = polling_horizon.holder(polled.space.source, horizon)
    assert who is not None
    assert "prepared transaction 'teller 7' of postgres, for" in who

    polled.source(f"{end} PREPARED 'teller 7'")
    # What was written since the transaction began is read again by the first round alone.
    assert once(polled).brought == 1 + (4 if end == "COMMIT" else 0)
    assert once(polled, compare=True).removed == (1 if end == "COMMIT" else 0)
    assert once(polled).brought == 0

    assert alike(polled)


def test_what_is_rolled_back_is_not_brought(polled: Streams) -> None:
    with open_transaction(polled, "INSERT INTO lines VALUES (200, 1)", "UPDATE lines SET n = 0") as session:
        once(polled)
        session.rollback()
    once(polled)

    assert alike(polled)


@pytest.mark.parametrize(
    "rewriting",
    [
        ("VACUUM (FREEZE) orders",),
        ("VACUUM (FULL, FREEZE) orders",),
        ("CLUSTER orders USING orders_pkey",),
        ("VACUUM (FREEZE) orders", "VACUUM FULL orders", "VACUUM (FREEZE) orders"),
    ],
    ids=["freeze", "full", "cluster", "all"],
)
def test_rows_that_were_frozen_or_moved_since_are_found(polled: Streams, rewriting: tuple[str, ...]) -> None:
    polled.source(
        "UPDATE orders SET note = 'frozen' WHERE id % 10 = 0",
        "INSERT INTO orders VALUES (902, 'n', 'c902', 'sad')",
        "DELETE FROM orders WHERE id = 4",
        *rewriting,
    )

    found = once(polled)

    assert found.brought == 31
    # A table with another file is compared whole, so that the deleted row is found as well.
    moved = rewriting[0] != "VACUUM (FREEZE) orders" or len(rewriting) > 1
    assert (found.compared, found.removed) == ((1, 1) if moved else (0, 0))
    assert alike(polled) is moved


def test_a_truncated_table_is_compared_in_the_next_round(polled: Streams) -> None:
    polled.source("TRUNCATE lines", "INSERT INTO lines VALUES (1, 2)")

    found = once(polled)

    assert (found.removed, found.compared) == (19, 1)
    assert alike(polled)


def test_a_horizon_too_far_away_to_be_told_by_ages_has_the_table_compared(polled: Streams) -> None:
    polled.source("UPDATE orders SET note = 'far' WHERE id = 9", "DELETE FROM orders WHERE id = 10")
    space = polled.space
    seen = polling_ledger.known(space)
    with space.writing() as writer:
        for name, one in seen.items():
            far = polling_ledger.after(
                one, horizon=one.horizon - polling_horizon.FAR, file=one.file, at=one.at
            )
            polling_ledger.record(space, writer, name, far)

    found = once(polled)

    assert found.compared == 3
    assert alike(polled)


def test_deleted_rows_and_former_keys_stay_until_tables_are_compared(polled: Streams) -> None:
    polled.source(
        "DELETE FROM orders WHERE id = 5",
        "UPDATE lines SET id = 500 WHERE id = 5",
        "DELETE FROM bare WHERE a = 1",
        "INSERT INTO bare VALUES (1, 'again')",
    )

    assert once(polled).removed == 0
    assert not alike(polled)
    found = once(polled, compare=True)

    assert (found.removed, found.compared) == (1 + 1 + 8, 3)
    assert alike(polled)


def test_a_unique_value_that_a_deleted_row_held_is_taken_over(polled: Streams) -> None:
    polled.source(
        "DELETE FROM orders WHERE id = 11", "INSERT INTO orders VALUES (911, 'heir', 'c11', 'glad')"
    )

    found = once(polled)

    assert (found.removed, found.compared) == (1, 1)
    assert alike(polled)


def test_rows_that_exchange_unique_values_don_t_meet(polled: Streams) -> None:
    polled.source(
        "BEGIN; UPDATE orders SET code = 'tmp' WHERE id = 1; UPDATE orders SET code = 'c1' WHERE id = 2;"
        " UPDATE orders SET code = 'c2' WHERE id = 1; COMMIT"
    )

    assert once(polled).compared == 0
    assert alike(polled)


def test_rows_that_exchange_unique_values_don_t_meet_when_compared(polled: Streams) -> None:
    polled.target("UPDATE orders SET code = 'q' WHERE id = 1")
    polled.target("UPDATE orders SET code = 'c1' WHERE id = 2")
    polled.target("UPDATE orders SET code = 'c2' WHERE id = 1")

    once(polled, compare=True)

    assert alike(polled)


def test_a_table_that_is_wrong_throughout_is_written_anew(
    polled: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planrunner.replication.keyed.HELD_AT_MOST", 50)
    monkeypatch.setattr("planrunner.replication.multisets.HELD_AT_MOST", 1)
    polled.target("UPDATE orders SET note = 'wrong', code = 'w' || id WHERE id < 200", "DELETE FROM bare")
    polled.target("INSERT INTO bare VALUES (8, 'never'), (9, 'never')")

    once(polled, compare=True)

    assert alike(polled)


def test_rounds_go_through_the_guard_and_leave_it_standing(polled: Streams) -> None:
    polled.target(*GUARD)
    polled.source("UPDATE orders SET note = 'behind' WHERE id = 3", "DELETE FROM orders WHERE id = 6")

    once(polled, compare=True)

    assert alike(polled)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        polled.target("DELETE FROM orders")


def test_a_round_that_breaks_off_goes_on_where_each_table_stands(
    polled: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    polled.source("UPDATE orders SET note = 'twice'", "UPDATE lines SET n = 77")

    def broken(*_: object) -> None:
        raise StepFailed("broken off")

    with monkeypatch.context() as patched:
        patched.setattr(polling_reconcile, "level", broken)
        with pytest.raises(StepFailed, match="broken off"):
            once(polled, compare=True)
    once(polled)

    assert alike(polled)


@pytest.mark.parametrize("compare", [False, True])
def test_a_source_that_breaks_while_rows_are_brought_is_the_one_that_is_told(
    polled: Streams, monkeypatch: pytest.MonkeyPatch, *, compare: bool
) -> None:
    polled.source("UPDATE orders SET note = repeat('long', 50000)")
    if compare:
        once(polled)
        monkeypatch.setattr("planrunner.replication.keyed.HELD_AT_MOST", 50)
        polled.target("UPDATE orders SET code = 'w' || id")
    with ThreadPoolExecutor(1) as beside:
        ending = beside.submit(end_who, dsn_of(polled.space.source), r"COPY \(SELECT .*orders")
        with pytest.raises(QueryFailed, match=BROKEN):
            once(polled, compare=compare)
        ending.result()
    once(polled, compare=compare)

    assert alike(polled)


def test_a_table_that_came_later_is_brought_whole(polled: Streams) -> None:
    for side in (polled.source, polled.target):
        side("CREATE TABLE later (id int PRIMARY KEY)")
    polled.source("INSERT INTO later SELECT generate_series(1, 100)")

    once(polled)

    assert rows(polled, "later")[0] == rows(polled, "later")[1] != []


def test_following_ends_when_the_target_has_caught_up(polled: Streams) -> None:
    polled.source("UPDATE orders SET note = 'caught up'")

    found = polling_following.follow(polled.space)

    assert found.brought == 300
    assert "300 rows brought" in polled.told[-1]
    assert alike(polled)


def test_a_changed_shape_of_the_source_stops_the_rounds(polled: Streams) -> None:
    polled.source("ALTER TABLE orders ADD COLUMN more int DEFAULT 5")

    with pytest.raises(StepFailed, match="orders"):
        polling_following.follow(polled.space)


def test_what_was_settled_is_what_one_snapshot_showed(polled: Streams) -> None:
    polled.source("DELETE FROM orders WHERE id < 50", "UPDATE lines SET id = id + 1000")

    found = polling_following.settle(polled.space)

    assert found.compared == len(catalog.stored_tables(polled.space.source))
    assert len({visit.horizon for visit in found.visits}) == 1
    assert alike(polled)
