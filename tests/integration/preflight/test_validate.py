"""The preflight report, against real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.model import DialAddress, Finding, Mark, RdsInstance, Side
from planrunner.steps.validate import Validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.server
SECTIONS = [
    "Local Environment",
    "Network Connectivity",
    "Source Permissions",
    "Target Permissions",
    "Capacity",
    "Schema",
    "Data",
    "Network from the Target",
]


def _one(findings: Sequence[Finding], text: str) -> Finding:
    found = [f for f in findings if text in f.text]
    assert len(found) == 1, [f.text for f in findings]
    return found[0]


def _failed(findings: Sequence[Finding]) -> list[str]:
    return [f.text for f in findings if f.mark is Mark.FAIL]


@pytest.fixture
def check(source: Any, target: Any, make_run: Callable[..., Any]) -> Callable[..., tuple[Finding, ...]]:
    """The findings for these logins (superusers when None) and these options of the snapshot step."""

    def run(
        login: str | None = None,
        receiver: str | None = None,
        snapshot: dict[str, Any] | None = None,
        grant: dict[str, Any] | None = None,
        **source_endpoint: Any,
    ) -> tuple[Finding, ...]:
        there = source.connect(login, **source_endpoint)
        here = target.connect(receiver, side=Side.TARGET)
        return tuple(Validate().findings(make_run(there, here, snapshot=snapshot, grant=grant)))

    return run


def test_a_prepared_pair_passes_in_all_sections(source: Any, check: Callable[..., Any]) -> None:
    source.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    findings = check()
    assert _failed(findings) == []
    assert list(dict.fromkeys(f.section for f in findings)) == SECTIONS
    assert _one(findings, "pg_dump found").text == "pg_dump found (16.14)"
    assert _one(findings, "Has SELECT on all 1 table").mark is Mark.PASS
    assert _one(findings, "Can create subscriptions").mark is Mark.PASS
    assert _one(findings, "Version 18").mark is Mark.PASS


def test_a_down_source_is_a_finding_and_the_target_is_still_checked(
    source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    gone = source.connect(parameters={"port": "1"})
    findings = Validate().findings(make_run(gone, target.connect(side=Side.TARGET)))
    unreachable = _one(findings, "Source database not reachable")
    assert unreachable.mark is Mark.FAIL
    assert unreachable.remedy is not None
    assert _one(findings, "Target database reachable").mark is Mark.PASS
    assert _one(findings, "Can create subscriptions")
    assert not [f for f in findings if f.section in {"Source Permissions", "Schema"}]


def test_missing_replication_privilege_names_the_grant_of_rds(source: Any, check: Callable[..., Any]) -> None:
    login = source.role()
    finding = _one(check(login), "Missing REPLICATION privilege")
    assert finding.mark is Mark.FAIL
    assert finding.remedy is not None
    assert f'GRANT "rds_replication" TO "{login}"' in finding.remedy
    assert finding.mended_by is None


def test_missing_replication_privilege_is_mended_by_grant_where_the_login_may(
    source: Any, check: Callable[..., Any]
) -> None:
    login = source.role()
    source.execute(f"GRANT rds_replication TO {login} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
    assert _one(check(login), "Missing REPLICATION privilege").mended_by == "grant"


def test_rds_replication_inherited_through_another_role_counts(
    source: Any, check: Callable[..., Any]
) -> None:
    login, group = source.role(), source.role("NOLOGIN")
    source.execute(f"GRANT rds_replication TO {group}", f"GRANT {group} TO {login}")
    assert _one(check(login), "rds_replication").mark is Mark.PASS


def test_missing_replication_attribute_names_alter_role(
    target: Any, source: Any, make_run: Callable[..., Any]
) -> None:
    login = target.role()
    plain = target.connect(login)
    findings = Validate().findings(make_run(plain, source.connect(side=Side.TARGET)))
    remedy = _one(findings, "Missing REPLICATION privilege").remedy
    assert remedy is not None
    assert f'ALTER ROLE "{login}" REPLICATION' in remedy


def test_wal_level_must_be_logical_and_enable_logical_mends_it(
    target: Any, source: Any, make_run: Callable[..., Any]
) -> None:
    rds = RdsInstance(instance="orders-prod")
    replica = target.connect(rds=rds)
    finding = _one(
        Validate().findings(make_run(replica, source.connect(side=Side.TARGET))), "wal_level must be logical"
    )
    assert finding.mended_by == "enable_logical"
    assert finding.remedy is not None
    assert "reboot-db-instance --db-instance-identifier orders-prod" in finding.remedy


def test_lacking_select_counts_the_tables_and_says_who_can_mend_it(
    source: Any, check: Callable[..., Any]
) -> None:
    login, owner = source.role(), source.role("NOLOGIN")
    source.execute(
        'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE "Odd ""name" (id int PRIMARY KEY)',
        f'ALTER TABLE a OWNER TO {owner}; ALTER TABLE "Odd ""name" OWNER TO {owner}',
        f"GRANT SELECT ON a TO {login}",
    )
    finding = _one(check(login), "Lacks SELECT on")
    assert "1 of 2 tables" in finding.text
    assert finding.remedy is not None
    assert f'GRANT SELECT ON TABLE "public"."Odd ""name" TO "{login}";' in finding.remedy
    assert finding.mended_by is None
    source.execute(f"GRANT {owner} TO {login} WITH ADMIN TRUE, INHERIT FALSE")
    findings = check(login)
    assert _one(findings, "Lacks SELECT on").mended_by == "grant"
    assert _one(findings, "Lacks the owner's rights on 2 tables").mended_by == "grant"
    alone = check(login, grant={"memberships": False})
    assert _one(alone, "Lacks SELECT on").mended_by is None
    assert _one(alone, "Lacks the owner's rights on 2 tables").mended_by is None


def test_tables_without_replica_identity_fail_unless_the_plan_sets_full(
    source: Any, check: Callable[..., Any]
) -> None:
    source.execute("CREATE TABLE bare (x int)", "CREATE TABLE kept (x int PRIMARY KEY)")
    failed = _one(check(), "without replica identity")
    assert failed.mark is Mark.FAIL
    assert "public.bare" in failed.text
    assert "public.kept" not in failed.text
    assert _one(check(snapshot={"without_replica_identity": "full"}), "public.bare").mark is Mark.WARN


def test_unlogged_tables_and_large_objects_fail_unless_the_plan_chooses(
    source: Any, check: Callable[..., Any]
) -> None:
    source.execute("CREATE UNLOGGED TABLE fleeting (x int)", "SELECT lo_create(0)")
    assert len(_failed(check())) == 2
    findings = check(snapshot={"unlogged": "schema_only", "large_objects": "skip"})
    assert _failed(findings) == []
    assert _one(findings, "public.fleeting").mark is Mark.WARN
    assert _one(findings, "1 large object,").mark is Mark.WARN


def test_row_level_security_that_would_hide_rows_fails(source: Any, check: Callable[..., Any]) -> None:
    login = source.role("LOGIN REPLICATION")
    source.execute(
        "CREATE TABLE secret (id int PRIMARY KEY)",
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON secret TO {login}",
    )
    finding = _one(check(login), "Row-level security would hide")
    assert finding.mark is Mark.FAIL
    assert finding.remedy is not None
    assert f'ALTER ROLE "{login}" BYPASSRLS' in finding.remedy
    source.execute(f"ALTER ROLE {login} BYPASSRLS")
    assert _one(check(login), "row-level security").mark is Mark.PASS


def test_an_extension_that_the_target_lacks_fails(
    source: Any, target: Any, check: Callable[..., Any]
) -> None:
    # As if it had been installed and its files were gone since: wheels carry no other difference.
    source.execute("INSERT INTO pg_extension VALUES (99999, 'postgis', 10, 2200, true, '3.4', NULL, NULL)")
    finding = _one(check(), "Target's server lacks 1 extension")
    assert finding.mark is Mark.FAIL
    assert "postgis" in finding.text


def test_a_prepared_transaction_is_a_warning_about_the_slot(
    place: Callable[..., Any], source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    source.server.restart({"max_prepared_transactions": "5"})
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    dsn = conninfo.make_conninfo(source.server.superuser_dsn, dbname=source.database)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left over'")
        run = make_run(source.connect(), target.connect(side=Side.TARGET))
        finding = _one(Validate().findings(run), "prepared transaction,")
        session.execute("ROLLBACK PREPARED 'left over'")
    assert finding.mark is Mark.WARN
    assert "left over" in finding.text


def test_a_target_with_tables_fails_unless_this_plan_brought_them(
    target: Any, check: Callable[..., Any]
) -> None:
    target.execute("CREATE TABLE old (x int)")
    assert _one(check(), "Database is not empty").mark is Mark.FAIL
    target.execute(
        "CREATE SCHEMA planrunner; CREATE TABLE planrunner.unit (plan_id text);"
        " CREATE TABLE planrunner.effect (plan_id text); INSERT INTO planrunner.unit VALUES ('ffffffff')"
    )
    assert _one(check(), "Database is not empty").mark is Mark.FAIL
    target.execute("INSERT INTO planrunner.unit VALUES ('0123abcd')")
    assert _one(check(), "an earlier run of this plan").mark is Mark.PASS


def test_a_poor_target_login_is_told_each_right_it_lacks(
    source: Any, target: Any, check: Callable[..., Any]
) -> None:
    owner, receiver = source.role("NOLOGIN"), target.role()
    source.execute("CREATE TABLE t (id int PRIMARY KEY)", f"ALTER TABLE t OWNER TO {owner}")
    findings = check(None, receiver)
    assert f'GRANT CREATE ON DATABASE "{target.database}" TO "{receiver}"' in str(
        _one(findings, "Lacks CREATE on database").remedy
    )
    assert f'GRANT pg_create_subscription TO "{receiver}"' in str(
        _one(findings, "Can't create subscriptions").remedy
    )
    assert f'CREATE ROLE "{owner}"' in str(_one(findings, "Can't create 1 missing role").remedy)
    assert f'GRANT USAGE, CREATE ON SCHEMA "public" TO "{receiver}"' in str(
        _one(findings, "Lacks CREATE on schema public").remedy
    )
    owners = check(None, receiver, {"owners": "login", "grants": "skip"})
    assert not [f for f in owners if "missing role" in f.text]


def test_a_subscription_without_lasting_password_fails_for_a_plain_login_unless_a_role_is_made_for_it(
    source: Any, target: Any, check: Callable[..., Any]
) -> None:
    lender, receiver = source.role(), target.role()
    assert _one(check(lender, receiver, password=None), "must use a password").mark is Mark.FAIL
    assert not [f for f in check(None, receiver, password=None) if "must use a password" in f.text]
    assert not [f for f in check(None, receiver) if "must use a password" in f.text]


def test_exhausted_slots_fail_but_the_plans_own_do_not_count(source: Any, check: Callable[..., Any]) -> None:
    limit = int(source.value("SHOW max_replication_slots"))
    names = [f"full_{n}" for n in range(limit)]
    try:
        for name in names:
            source.execute(f"SELECT pg_create_physical_replication_slot('{name}')")
        assert f"0 of {limit} replication slots free" in _one(check(), "replication slots").text
        source.execute(
            f"SELECT pg_drop_replication_slot('{names.pop()}')",
            f"SELECT pg_drop_replication_slot('{names.pop()}')",
            "SELECT pg_create_physical_replication_slot('pr_0123abcd_g1')",
        )
        names.append("pr_0123abcd_g1")
        assert _one(check(), f"2 of {limit} replication slots free").mark is Mark.PASS
    finally:
        for name in names:
            source.execute(f"SELECT pg_drop_replication_slot('{name}')")


def test_the_same_database_on_both_sides_fails(source: Any, make_run: Callable[..., Any]) -> None:
    run = make_run(source.connect(), source.connect(side=Side.TARGET))
    assert _one(Validate().findings(run), "the same database").mark is Mark.FAIL


def test_a_target_dials_the_source_as_sync_will_and_never_with_the_password(
    source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    here = target.connect(side=Side.TARGET)
    findings = Validate().findings(make_run(source.connect(), here))
    assert _one(findings, "Target reaches the source at 127.0.0.1").mark is Mark.PASS
    nowhere = source.connect(seen_from_other=DialAddress(port=1))
    refused = _one(Validate().findings(make_run(nowhere, here)), "Target can't dial the source")
    assert refused.mark is Mark.FAIL
    assert "refused" in refused.text
    assert source.server.password not in target.server.log.read_text()
    assert here.rows("SELECT subname FROM pg_subscription WHERE subname LIKE 'planrunner%%'", []) == []


def test_a_target_with_dblink_really_dials_and_never_with_the_password(
    place: Callable[..., Any], debian_server: Any, source: Any, make_run: Callable[..., Any]
) -> None:
    target = place(debian_server)
    target.execute("CREATE EXTENSION dblink")
    tls = {"sslmode": "require"}
    here = target.connect(side=Side.TARGET, parameters=tls)
    findings = Validate().findings(make_run(source.connect(), here))
    assert _one(findings, "Target reaches the source at 127.0.0.1").mark is Mark.PASS
    nowhere = source.connect(seen_from_other=DialAddress(port=1))
    refused = _one(Validate().findings(make_run(nowhere, here)), "Target can't dial the source")
    assert refused.mark is Mark.FAIL
    assert "Connection refused" in refused.text
    assert "planrunner-probe" not in refused.text
    assert source.server.password not in debian_server.log.read_text()


def test_warnings_fail_turns_warnings_into_failures(
    source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    source.execute("CREATE UNLOGGED TABLE fleeting (x int PRIMARY KEY)")
    servers = source.connect(), target.connect(side=Side.TARGET)
    chosen = {"unlogged": "schema_only"}
    mild = Validate().findings(make_run(*servers, snapshot=chosen))
    assert _one(mild, "public.fleeting").mark is Mark.WARN
    strict = Validate().findings(make_run(*servers, snapshot=chosen, warnings_fail=True))
    assert _one(strict, "public.fleeting").mark is Mark.FAIL


def test_the_number_of_queries_does_not_grow_with_the_tables(
    source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    def statements() -> int:
        log = source.server.log.read_text().count("LOG:  execute") + source.server.log.read_text().count(
            "LOG:  statement"
        )
        Validate().findings(make_run(source.connect(), target.connect(side=Side.TARGET)))
        text = source.server.log.read_text()
        return text.count("LOG:  execute") + text.count("LOG:  statement") - log

    source.execute(
        f"ALTER DATABASE {source.database} SET log_statement = 'all'", "CREATE TABLE t0 (id int PRIMARY KEY)"
    )
    few = statements()
    source.execute(*(f"CREATE TABLE t{n} (id serial PRIMARY KEY)" for n in range(1, 40)))
    assert few > 10
    assert statements() == few


def test_findings_are_read_only(source: Any, target: Any, make_run: Callable[..., Any]) -> None:
    there, here = source.connect(), target.connect(side=Side.TARGET)
    Validate().findings(make_run(there, here))
    assert there.value("SHOW default_transaction_read_only") == "on"
    assert here.value("SHOW default_transaction_read_only") == "on"
    assert Validate().actions(make_run(there, here)) == ()


def test_what_the_plan_leaves_out_needs_no_right_and_no_identity(
    source: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    source.execute(
        "CREATE SCHEMA secret",
        "CREATE TABLE secret.bare (id serial, a int)",
        "CREATE TABLE public.mine (id int PRIMARY KEY)",
    )
    user = source.role("LOGIN REPLICATION")
    source.execute(
        f"ALTER TABLE public.mine OWNER TO {user}",
        f'GRANT CREATE ON DATABASE "{source.database}" TO {user}',
    )
    here, there = source.connect(user), target.connect(side=Side.TARGET)

    def failures(**snapshot: Any) -> list[str]:
        found = Validate().findings(make_run(here, there, snapshot=snapshot))
        return [f.text for f in found if f.mark is Mark.FAIL and ("secret" in f.text or "rights" in f.text)]

    assert len(failures()) >= 4
    assert failures(filters={"exclude": ["secret.*"]}) == []
