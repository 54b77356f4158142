"""Strangers at work on our publications and subscriptions, and on the target: told with what to do, never passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.scene import migration, servers
from tests.faults.strangers import STEADY, application, execute, flat, meanwhile, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

SCRIPT = (
    STEADY
    + """
CREATE TABLE called (id int PRIMARY KEY, v text, n int);
INSERT INTO called SELECT i, md5(i::text), i FROM generate_series(1, 50) i;
CREATE INDEX called_v ON called (v);
"""
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


def stops(one: Migration, code: int, *told: str) -> str:
    """A run that ends so and says all of that; its words on one line."""
    found, said = one.run("run")
    assert found == code, said
    for words in told:
        assert words in flat(said), said
    return flat(said)


def ours(dsn: str, catalogue: str, column: str, kind: str = "pr") -> str:
    ((name,),) = rows(dsn, f"SELECT {column} FROM {catalogue} WHERE {column} LIKE '{kind}\\_%'")
    return str(name)


def test_what_somebody_changes_of_our_publication_or_subscription_is_told_and_mended_as_told(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "loosened", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        publication = ours(one.ours, "pg_publication", "pubname")
        subscription = ours(one.theirs, "pg_subscription", "subname")

        execute(one.ours, f"ALTER PUBLICATION {publication} SET (publish = 'insert')")
        said = stops(one, 1, f"publication {publication} does not publish all of insert, update, delete and")
        mending = f"""ALTER PUBLICATION "{publication}" SET (publish = 'insert, update, delete, truncate');"""
        assert mending in said
        client.goes_on()
        execute(one.ours, mending)

        execute(one.ours, f"ALTER PUBLICATION {publication} DROP TABLE called", "UPDATE called SET n = 0")
        said = stops(one, 1, f"table public.called was taken out of publication {publication}")
        mending = f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY "public"."called";'
        assert mending in said
        client.goes_on()
        execute(one.ours, mending)
        stops(one, 7, "public.called: 50 rows on both sides, but their contents differ")
        client.goes_on()
        one.succeeds("verify", "--repair", "--yes")

        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} DISABLE")
        said = stops(one, 1, f"subscription {subscription} is disabled")
        assert f"On the target: ALTER SUBSCRIPTION {subscription} ENABLE;" in said
        client.goes_on()
        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} ENABLE")

        # What only looks dangerous: everything it names is followed already.
        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_what_is_sent_and_applied_to_nothing_is_told_as_well_as_a_marker_that_is_not_sent(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "unapplied", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        publication = ours(one.ours, "pg_publication", "pubname")
        subscription = ours(one.theirs, "pg_subscription", "subname")

        execute(one.ours, f"ALTER PUBLICATION {publication} DROP TABLE called")
        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION")
        mending = f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY "public"."called";'
        execute(one.ours, mending, "UPDATE called SET n = 1")
        said = stops(
            one, 1, f"{subscription} applies nothing to table public.called any more: someone refreshed"
        )
        mending = f'ALTER SUBSCRIPTION "{subscription}" REFRESH PUBLICATION WITH (copy_data = false);'
        assert mending in said
        execute(one.theirs, mending)
        stops(one, 7, "public.called: 50 rows on both sides, but their contents differ")
        one.succeeds("verify", "--repair", "--yes")
        client.goes_on()

        marker = ours(one.ours, "pg_tables", "tablename", "barrier")
        execute(one.ours, f"ALTER PUBLICATION {publication} DROP TABLE planrunner.{marker}")
        said = stops(one, 1, f"table planrunner.{marker} was taken out of publication {publication}")
        mending = f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY "planrunner"."{marker}";'
        assert mending in said
        client.goes_on()
        execute(one.ours, mending)
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


@pytest.mark.parametrize(
    "moment", ["following", pytest.param("copy.before_commit#1", marks=pytest.mark.soak)]
)
def test_a_publication_that_is_gone_ends_the_stream_and_the_way_to_begin_anew_works(
    pair: Pair, tmp_path: Path, moment: str
) -> None:
    drop = (
        "DO $$ DECLARE name text; BEGIN SELECT pubname INTO name FROM pg_publication;"
        " EXECUTE format('DROP PUBLICATION %I', name); END $$"
    )
    with migration(pair, tmp_path, "unpublished", SCRIPT) as one, application(one) as client:
        if moment == "following":
            one.succeeds("run", "--until", "follow")
            execute(one.ours, drop)
            code, said = one.run("run")
        else:
            code, said = meanwhile(one, moment, [drop])
        assert code == 1, said
        assert "is gone: someone dropped it; its slot can't be read any more" in flat(said)
        client.goes_on()
        one.succeeds("cleanup", "--yes")
        execute(one.theirs, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_a_run_that_has_nothing_left_to_do_looks_whether_the_stream_goes_on(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "unheard", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        one.succeeds("run", "--until", "follow")
        execute(one.theirs, "ALTER TABLE called ADD CONSTRAINT stricter CHECK (id < 2000)")
        execute(one.ours, "INSERT INTO called VALUES (2000, 'ours', 1)")
        code, said = one.run("run", "--until", "follow")
        assert code == 1, said
        assert "can't apply INSERT of public.called, key (id)=(2000)" in flat(said)
        execute(one.theirs, "ALTER TABLE called DROP CONSTRAINT stricter")
        client.goes_on()
        one.succeeds("run", "--until", "follow")

        subscription = ours(one.theirs, "pg_subscription", "subname")
        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} DISABLE")
        code, said = one.run("run", "--until", "follow")
        assert code == 1, said
        assert f"subscription {subscription} is disabled" in flat(said)
        execute(one.theirs, f"ALTER SUBSCRIPTION {subscription} ENABLE")
        one.succeeds("run")
        client.kept(one.theirs)
        # Writers are on the target, and nothing of the source's is relied on any more.
        execute(one.ours, "DROP SCHEMA IF EXISTS planrunner CASCADE")
        one.succeeds("run")


def test_a_subscription_that_is_gone_is_told_and_the_way_to_begin_anew_works(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "unsubscribed", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        subscription = ours(one.theirs, "pg_subscription", "subname")
        execute(
            one.theirs,
            f"ALTER SUBSCRIPTION {subscription} DISABLE",
            f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {subscription}",
        )
        stops(one, 1, f"subscription {subscription} is gone: someone dropped it", "Made anew it would apply")
        client.goes_on()
        one.succeeds("cleanup", "--yes")
        execute(one.theirs, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_strangers_on_the_target_are_named_before_the_cutover_and_the_remedies_work(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "strayed", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")

        execute(one.theirs, "INSERT INTO called VALUES (1000, 'not ours', 0)")
        execute(one.ours, "INSERT INTO called VALUES (1000, 'ours', 1)")
        said = stops(one, 1, "can't apply INSERT of public.called, key (id)=(1000)")
        # The target is closed to writers by now: the remedy is one that passes.
        remedy = (
            'BEGIN; ALTER TABLE "public"."called" DISABLE TRIGGER "planrunner_fence";'
            """ DELETE FROM "public"."called" WHERE "id" = '1000';"""
            ' ALTER TABLE "public"."called" ENABLE ALWAYS TRIGGER "planrunner_fence"; COMMIT;'
        )
        assert remedy in said
        execute(one.theirs, remedy)

        execute(one.theirs, "ALTER TABLE called ADD CONSTRAINT stricter CHECK (id < 2000)")
        execute(one.ours, "INSERT INTO called VALUES (2000, 'ours', 1)")
        stops(one, 1, "can't apply INSERT of public.called, key (id)=(2000)", "drop that constraint")
        execute(one.theirs, "ALTER TABLE called DROP CONSTRAINT stricter")

        # Somebody who knows how to get past the guard.
        execute(
            one.theirs,
            "ALTER TABLE called DISABLE TRIGGER planrunner_fence",
            "DELETE FROM called WHERE id = 1",
            "UPDATE called SET v = 'stray' WHERE id = 2",
            "INSERT INTO called VALUES (3000, 'stray', 0)",
        )
        stops(one, 7, "public.called: 52 rows on both sides, but their contents differ")
        code, said = one.run("verify")
        assert code == 7, said
        for row in ("id='1': missing on the target", "id='2': changed", "id='3000': extra on the target"):
            assert row in flat(said), said
        one.succeeds("verify", "--repair", "--yes")
        client.goes_on()

        execute(
            one.theirs,
            "DROP INDEX called_v",
            "ALTER TABLE called ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY few ON called USING (id < 10)",
            "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.v := 'changed'; RETURN NEW; END $$",
            "CREATE TRIGGER changing BEFORE INSERT ON called FOR EACH ROW EXECUTE FUNCTION change()",
            "ALTER TABLE called ENABLE ALWAYS TRIGGER changing",
        )
        execute(one.ours, "INSERT INTO called VALUES (4000, 'ours', 1)")
        said = stops(one, 7, "public.called: 53 rows on both sides, but their contents differ")
        assert all(name in said for name in ("changing", "called_v")), said
        client.goes_on()
        execute(
            one.theirs,
            "DROP TRIGGER changing ON called",
            "DROP FUNCTION change()",
            "CREATE INDEX called_v ON called (v)",
        )
        code, said = one.run("verify", "--repair", "--yes")
        assert code in {0, 7}, said
        # What is compared once the rows agree.
        stops(one, 7, "few")
        client.goes_on()
        execute(one.theirs, "DROP POLICY few ON called", "ALTER TABLE called DISABLE ROW LEVEL SECURITY")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_what_stands_in_the_way_on_the_target_is_named_and_left_alone(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "inway", SCRIPT) as one, application(one) as client:
        execute(one.theirs, "CREATE TABLE called (id int, v text)", "INSERT INTO called VALUES (1, 'theirs')")
        stops(one, 1, "the target already has public.called")
        assert rows(one.theirs, "SELECT v FROM called") == [("theirs",)]
        execute(one.theirs, "DROP TABLE called")
        squatting = ["CREATE TABLE theirs (v text)", "CREATE INDEX called_v ON theirs (v)"]
        code, said = meanwhile(one, "copy.copy.before", squatting, dsn=one.theirs)
        assert code == 1, said
        assert 'relation "called_v" already exists, and this plan did not make it' in flat(said)
        client.goes_on()
        execute(one.theirs, "DROP TABLE theirs")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_owners_that_change_and_drop_what_they_own_are_told(pair: Pair, tmp_path: Path) -> None:
    script = (
        SCRIPT
        + "CREATE ROLE stranger_one; CREATE ROLE stranger_two; ALTER TABLE called OWNER TO stranger_one;"
    )
    with migration(pair, tmp_path, "owned", script) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        execute(one.ours, "REASSIGN OWNED BY stranger_one TO stranger_two")
        stops(one, 7, "owners", "called", "stranger_two")
        client.goes_on()
        execute(one.theirs, "CREATE ROLE stranger_two", "ALTER TABLE called OWNER TO stranger_two")
        execute(one.ours, "DROP OWNED BY stranger_two")
        stops(
            one,
            7,
            'public.called was dropped on the source; execute on the target: DROP TABLE "public"."called";',
        )
        client.goes_on()
        execute(one.theirs, 'DROP TABLE "public"."called"')
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)
