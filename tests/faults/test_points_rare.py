"""The points that only some migrations pass: killed and raised there, each goes on, and is whole at its end."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.faults.breaking import SCRIPT, Clerk, execute, finishes, once, rows, wait_until
from tests.faults.lines import FaultLine
from tests.faults.scene import migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("points-rare")]

MODES = pytest.mark.parametrize("mode", ["kill", "raise"])
RUN = ("--yes", "--no-input")
LEVEL = "SELECT setting FROM pg_file_settings WHERE name = 'wal_level' AND sourcefile LIKE '%auto.conf'"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _account(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS is the stand-in for all that is started here, with nothing of this machine's own configuration."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    given = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    files = {"CONFIG_FILE": "/dev/null", "SHARED_CREDENTIALS_FILE": "/dev/null"}
    more = {"EC2_METADATA_DISABLED": "true", "ENDPOINT_URL": cloud}
    for name, value in {**given, **files, **more}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def broken_off(one: Migration, point: str, mode: str, verb: str = "run", *options: str) -> str:
    """What a command said that was broken off at a point."""
    code, said = one.run(
        verb, *(RUN if verb == "run" else ("--yes",)), *options, failpoints=f"{point}:{mode}"
    )
    assert code == (-signal.SIGKILL if mode == "kill" else 1), said
    assert "Traceback" not in said
    if mode == "raise":
        assert f"failpoint {point.partition('#')[0]} was reached" in " ".join(said.split())
    return said


def api(service: str) -> Any:
    return boto3.client(service)  # type: ignore[call-overload]


# A server of one's own


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Migration]:
    """A source that still has to be made ready, and is not on RDS."""
    with (
        servers(source={"wal_level": "replica"}) as both,
        migration(both, tmp_path, "plain", SCRIPT) as one,
    ):
        step = "steps:\n  - {id: logical, uses: enable_logical, with: {undo: true}}\n"
        one.plan.write_text(one.plan.read_text().replace("steps:\n", step))
        yield one


@MODES
def test_a_server_s_own_settings_are_set_and_set_back_once(plain: Migration, mode: str) -> None:
    broken_off(plain, "own_server.before_alter_system", mode)
    assert rows(plain.ours, LEVEL) == []
    code, said = plain.run("run", *RUN)
    assert code != 0
    assert "restart" in said
    assert rows(plain.ours, LEVEL) == [("logical",)]
    plain.source.restart()
    plain.succeeds("run", *RUN)
    plain.assert_moved()
    broken_off(plain, "own_server.before_set_back", mode, "cleanup")
    plain.succeeds("cleanup", "--yes")
    assert rows(plain.ours, LEVEL) == []
    assert plain.left() == []


# A state in S3


@pytest.mark.parametrize("point", ["lock.lease_taken", "lock.lease_renewed"])
@MODES
def test_the_lock_of_a_state_in_s3_is_had_again(pair: Pair, tmp_path: Path, point: str, mode: str) -> None:
    name = f"kept_{point[-5:]}_{mode}"
    api("s3").create_bucket(Bucket=name.replace("_", "-"))
    home = ("--state", f"s3://{name.replace('_', '-')}/state.json")
    with migration(pair, tmp_path, name, SCRIPT) as one:
        code, said = one.run("run", *RUN, *home, failpoints=f"{once(point)}:{mode}")
        if mode == "kill":
            assert code == -signal.SIGKILL, said
            # Whoever died with the lock in hand has it until it is not heard of any more.
            if point == "lock.lease_taken":
                code, said = one.run("run", *RUN, *home)
                assert code == 5, said
        else:
            assert "Traceback" not in said
            assert code in {0, 1}, said
        one.succeeds("run", *RUN, "--take-over", *home)
        assert one.left() == []
        steps = json.loads(one.succeeds("status", "--output", "json", *home))["steps"]
        assert {step["status"] for step in steps} == {"done"}


# The subscription's login


@MODES
def test_a_login_whose_renewal_was_broken_off_is_good(pair: Pair, tmp_path: Path, mode: str) -> None:
    with migration(pair, tmp_path, f"renewed_{mode}", SCRIPT) as one:
        one.succeeds("run", *RUN, "--until", "follow")
        login = f"pr_{one.state()['plan_id']}_login"
        soon = f"EXECUTE format('ALTER ROLE %I VALID UNTIL %L', '{login}', now() + interval '1 day')"
        execute(one.ours, f"DO $$ BEGIN {soon}; END $$")
        broken = "SELECT rolvaliduntil < now() + interval '2 days' FROM pg_roles WHERE rolname = %s"
        assert rows(one.ours, broken, login) == [(True,)]
        broken_off(one, "login.renewed", mode)
        assert rows(one.ours, broken, login) == [(False,)]
        one.succeeds("run", *RUN)
        one.assert_moved()


# A COMMIT whose reply is lost


@MODES
def test_who_asks_what_became_of_a_commit_may_be_broken_off(pair: Pair, tmp_path: Path, mode: str) -> None:
    with (
        FaultLine(pair[1].port) as line,
        migration(pair, tmp_path, f"asked_{mode}", SCRIPT, ports=(pair[0].port, line.port)) as one,
    ):
        line.trap("commit", "lose", match="INSERT INTO planrunner.unit")
        with Clerk(one.ours) as clerk:
            broken_off(one, "outcome.before_end", mode)
            assert line.counts().lost == 1
            one.succeeds("run", *RUN)
        one.assert_moved()
        clerk.assert_kept(one.theirs)


# An apply worker that fails


@MODES
def test_who_looks_why_a_change_is_refused_may_be_broken_off(pair: Pair, tmp_path: Path, mode: str) -> None:
    with migration(pair, tmp_path, f"refused_{mode}", SCRIPT, over="{write_pause_budget: 60s}") as one:
        one.succeeds("run", *RUN, "--until", "follow")
        on_closed(one.theirs, "INSERT INTO said VALUES (7, 'stray')")
        execute(one.ours, "INSERT INTO said VALUES (7, 'aye')")
        code, said = one.run("run", *RUN, failpoints=f"apply_error.slot_copied:{mode}")
        # Why it is refused is more than is needed to say that it is.
        assert code == (-signal.SIGKILL if mode == "kill" else 1), said
        assert "Traceback" not in said
        # The copy of the slot went with its session.
        wait_until(lambda: not any("look" in left for left in one.left()), "the copied slot is gone")
        code, said = one.run("run", *RUN)
        assert code == 1, said
        assert "public.said" in said
        on_closed(one.theirs, "DELETE FROM said WHERE id = 7")
        finishes(one)
        one.assert_moved()


def on_closed(dsn: str, statement: str) -> None:
    """As a person would who has to write to a table that may be closed."""
    closed = rows(
        dsn, "SELECT FROM pg_trigger WHERE tgname = 'planrunner_fence' AND tgrelid = 'said'::regclass"
    )
    opening = ["ALTER TABLE said DISABLE TRIGGER planrunner_fence"] if closed else []
    closing = ["ALTER TABLE said ENABLE ALWAYS TRIGGER planrunner_fence"] if closed else []
    execute(dsn, *opening, statement, *closing)


# What is left of a stream


@pytest.mark.parametrize(
    "point",
    ["subscription.dropped", "slot.dropped", "inserts.dropped", "barrier.dropped", "publication.dropped"],
)
def test_a_stream_that_was_half_removed_is_removed_whole(pair: Pair, tmp_path: Path, point: str) -> None:
    script = f"{SCRIPT}; CREATE TABLE bare (v int); INSERT INTO bare VALUES (1)"
    name = f"half_{point.partition('.')[0]}"
    with migration(pair, tmp_path, name, script, copy="{without_replica_identity: insert_only}") as one:
        one.succeeds("run", *RUN, "--until", "follow")
        broken_off(one, point, "kill")
        one.succeeds("run", *RUN)
        one.assert_moved()


# The traffic, led by AWS


@contextmanager
def zone() -> Iterator[str]:
    made = api("route53").create_hosted_zone(Name="example.com.", CallerReference=str(uuid4()))
    name = str(made["HostedZone"]["Id"]).rsplit("/", 1)[-1]
    record = {"Name": "db.example.com", "Type": "A", "TTL": 30, "ResourceRecords": [{"Value": "127.0.0.9"}]}
    change = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    api("route53").change_resource_record_sets(HostedZoneId=name, ChangeBatch=change)
    yield name


def led(zone_id: str) -> str:
    found = api("route53").list_resource_record_sets(HostedZoneId=zone_id)["ResourceRecordSets"]
    return next(str(r["ResourceRecords"][0]["Value"]) for r in found if r["Name"].startswith("db."))


@MODES
def test_a_record_is_led_over_whatever_breaks_off(pair: Pair, tmp_path: Path, mode: str) -> None:
    with zone() as zone_id:
        entry = (
            f"route53: {{zone_id: {zone_id}, name: db.example.com, type: A, region: us-east-1,"
            " source_value: 127.0.0.9, target_value: 127.0.0.1}"
        )
        with migration(pair, tmp_path, f"dns_{mode}", SCRIPT, over=f"{{switch: [{{{entry}}}]}}") as one:
            broken_off(one, "switch.route53", mode)
            assert led(zone_id) == "127.0.0.1"
            one.succeeds("run", *RUN)
            assert led(zone_id) == "127.0.0.1"
            one.assert_moved()


@MODES
def test_a_secret_is_led_over_once_whatever_breaks_off(pair: Pair, tmp_path: Path, mode: str) -> None:
    secrets, name = api("secretsmanager"), f"shop-{mode}"
    secrets.create_secret(Name=name, SecretString=json.dumps({"host": "old", "port": 1, "password": "kept"}))
    entry = f"secretsmanager: {{secret_id: {name}, region: us-east-1}}"
    with migration(pair, tmp_path, f"secret_{mode}", SCRIPT, over=f"{{switch: [{{{entry}}}]}}") as one:
        broken_off(one, "switch.secretsmanager", mode)
        one.succeeds("run", *RUN)
        one.assert_moved()
        found = json.loads(secrets.get_secret_value(SecretId=name)["SecretString"])
        assert found == {"host": "127.0.0.1", "port": pair[1].port, "password": "kept"}
        versions = secrets.list_secret_version_ids(SecretId=name, IncludeDeprecated=True)["Versions"]
        assert len(versions) == 2
