"""A fleet's verbs as a user types them, between two databases a member."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.fleet.folder import folder_of
from planrunner.fleet.journal import chronicle
from planrunner.sandbox.rds_api import CREDENTIALS, RdsApi
from planrunner.state.lock import locked
from tests.faults.fleet import TEMPLATE, make_databases
from tests.integration.cli.conftest import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.integration.cli.conftest import Cli

NAMES = ("cli-1", "cli-2")
# What the copy alone needs: this server's wal_level is enough for a snapshot, and nothing is switched.
PLAN = TEMPLATE[: TEMPLATE.index("  - {id: follow")].replace(
    "uses: snapshot", "uses: snapshot, approval: manual"
)


@pytest.fixture
def fleet(
    old: PostgresServer, new: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv("SOURCE_PASSWORD", old.password)
    make_databases(old, new, NAMES, rows=5)
    # Whose password is asked for is told by the environment.
    for name in NAMES:
        (tmp_path / f"{name}.password").write_text(new.password)
    (tmp_path / "shop.yaml").write_text(
        PLAN.replace("{env: TARGET_PASSWORD}", "{command: [sh, -c, 'cat $PLANRUNNER_MEMBER.password']}")
    )
    rows = "".join(f"    - {{name: {name}, database: {name.replace('-', '_')}}}\n" for name in NAMES)
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "apiVersion: planrunner/v1\nkind: Fleet\nmetadata: {name: shops}\nplan: shop.yaml\n"
        f"vars: {{source_port: {old.port}, target_port: {new.port}}}\ninventory:\n  rows:\n{rows}"
        "waves:\n  - {name: one, members: [cli-1]}\n  - {name: two, approval: manual}\n"
    )
    yield path
    for server in (old, new):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active"
            )
            for name in NAMES:
                database = sql.Identifier(name.replace("-", "_"))
                session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.mark.server
def test_members_wait_for_their_steps_and_waves_for_a_person(fleet: Path, cli: Cli) -> None:
    assert "2 members in waves: one 1, two 1" in cli("fleet", "lint", "fleet.yaml").stdout

    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "waiting for somebody's word: cli-1" in ended.stderr
    assert "step copy" in ended.stdout

    refused = cli("fleet", "approve", "fleet.yaml", "cli-1")
    assert refused.returncode == 2
    assert "approved with --step" in refused.stderr
    approved = cli("fleet", "approve", "fleet.yaml", "--step", "copy", "--because", "a test")
    assert "step copy of 1 members is approved" in approved.stdout

    ended = cli("fleet", "run", "fleet.yaml", "--output", "json")
    assert ended.returncode == 4
    told = json.loads(ended.stdout)
    assert told["counts"] == {"pending": 1, "done": 1}
    assert [wave["approved"] for wave in told["waves"]] == [True, False]
    assert "wave two (1 members) waits for approval" in ended.stderr

    assert "wave two (1 members) is approved" in cli("fleet", "approve", "fleet.yaml").stdout
    assert "no wave of the fleet waits" in cli("fleet", "approve", "fleet.yaml").stderr
    assert cli("fleet", "approve", "fleet.yaml", "--step", "copy", "cli-*").returncode == 2, "cli-1 is done"
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 members: 2 done" in ended.stdout

    # A member's own commands see the same state.
    command = json.loads(cli("fleet", "status", "fleet.yaml", "--output", "json").stdout)["members"][1][
        "command"
    ]
    again = cli(*command.split()[1:], PLANRUNNER_MEMBER="cli-2")
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.server
def test_a_fleet_goes_as_far_as_it_is_told_and_says_so(fleet: Path, cli: Cli) -> None:
    plan = fleet.parent / "shop.yaml"
    plan.write_text(
        plan.read_text()
        .replace("steps:\n", "steps:\n  - {id: check, uses: validate}\n")
        .replace(", approval: manual", "")
    )
    refused = cli("fleet", "run", "fleet.yaml", "--until", "follow")
    assert refused.returncode == 2
    assert "the plan of cli-1 and of 1 more members has no step 'follow'" in refused.stderr
    assert "Its steps are: check, copy." in refused.stderr
    assert cli("fleet", "approve", "fleet.yaml", "--step", "copy", "--until", "check").returncode == 2

    ended = cli("fleet", "run", "fleet.yaml", "--until", "check")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "cli-1: done up to check" in ended.stdout
    assert "planrunner fleet approve fleet.yaml two --until check" in ended.stderr
    approved = cli("fleet", "approve", "fleet.yaml", "--until", "check")
    assert "wave two (1 members) is approved up to check" in approved.stdout
    ended = cli("fleet", "run", "fleet.yaml", "--until", "check", "--output", "json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout)
    assert told["counts"] == {"reached": 2}
    assert [(wave["approved"], wave["approved_until"]) for wave in told["waves"]] == [
        (True, []),
        (False, ["check"]),
    ]
    said = cli("fleet", "status", "fleet.yaml").stdout
    assert "2 members: 2 reached" in said
    assert "wave two is approved up to check; it goes on from there once it is approved" in said
    assert "go on with: planrunner fleet run fleet.yaml" in said
    assert "done up to check" in cli("fleet", "report", "fleet.yaml").stdout

    assert cli("fleet", "run", "fleet.yaml").returncode == 4
    assert cli("fleet", "approve", "fleet.yaml").returncode == 0
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 members: 2 done" in ended.stdout


@pytest.mark.server
def test_a_preview_sums_up_what_the_members_are_and_a_report_leads_to_theirs(
    fleet: Path, cli: Cli, old: PostgresServer
) -> None:
    with psycopg.connect(old.dsn("postgres", "cli_2", password=old.password)) as session:
        session.execute("CREATE TABLE one_more (id int PRIMARY KEY)")

    ended = cli("fleet", "preview", "fleet.yaml", "--output", "json", "--detailed-exitcode")
    assert ended.returncode == 10, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["sums"]["members"], told["sums"]["changed"], told["sums"]["tables"]) == (2, 2, 5)
    assert told["sums"]["bytes"] == sum(size_of(old, name) for name in NAMES)
    assert [(wave["name"], wave["tables"]) for wave in told["waves"]] == [("one", 2), ("two", 3)]
    assert told["members"][0]["preview"]["steps"][0]["waits_for_approval"] is True
    assert not (fleet.parent / "fleet.fleet").exists(), "a preview leaves nothing"
    text = cli("fleet", "preview", "fleet.yaml").stdout
    assert "2 of 2 members would change" in text

    with psycopg.connect(old.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER DATABASE cli_2 ALLOW_CONNECTIONS false")
    ended = cli("fleet", "preview", "fleet.yaml", "--format", "markdown")
    assert ended.returncode == 1
    assert "1 members could not be looked at" in ended.stdout
    with psycopg.connect(old.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER DATABASE cli_2 ALLOW_CONNECTIONS true")

    assert cli("fleet", "run", "fleet.yaml").returncode == 4
    assert cli("fleet", "report", "fleet.yaml", "--format", "html", "--out", "fleet.html").returncode == 0
    page = (fleet.parent / "fleet.html").read_text("utf-8")
    assert 'href="fleet.fleet/cli-1.report.html"' in page
    assert (fleet.parent / "fleet.fleet/cli-1.report.html").exists()
    assert "1 pending, 1 waiting" in cli("fleet", "report", "fleet.yaml").stdout


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of moto's, by the environment that AWS's own tools read."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        **CREDENTIALS,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="states")
    yield "states"
    server.stop()


@pytest.mark.server
def test_states_in_a_bucket_are_seen_by_a_machine_that_has_the_fleets_files_alone(
    fleet: Path, cli: Cli, bucket: str
) -> None:
    plan = fleet.parent / "shop.yaml"
    plan.write_text(plan.read_text().replace("cat $PLAN", f"cat {fleet.parent}/$PLAN"))
    fleet.write_text(f"{fleet.read_text()}state: s3://{bucket}/shops/\n")
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "1 pending, 1 waiting" in ended.stdout

    (fleet.parent / "fleet.fleet").rename(fleet.parent / "of-the-other-machine")
    assert "1 pending, 1 waiting" in cli("fleet", "status", "fleet.yaml").stdout
    assert cli("fleet", "approve", "fleet.yaml", "--step", "copy", "--because", "a test").returncode == 0
    assert cli("fleet", "approve", "fleet.yaml", "two").returncode == 0
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 4
    assert "1 waiting, 1 done" in ended.stdout
    assert (fleet.parent / "fleet.fleet/cli-1.report.html").exists()
    keys = [one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert {"shops/cli-1.state.json", "shops/cli-2.state.json"} <= set(keys)

    # Members that were begun are where they were begun.
    fleet.write_text(fleet.read_text().replace(f"s3://{bucket}/shops/", "target"))
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 6
    assert f"with their states in s3://{bucket}/shops/, and the fleet's file says target now" in ended.stderr


def size_of(server: PostgresServer, name: str) -> int:
    """Every table of a member's database with its indexes and what is kept out of line, as the server counts."""
    with psycopg.connect(server.dsn("postgres", name.replace("-", "_"), password=server.password)) as session:
        row = session.execute(
            "SELECT sum(pg_relation_size(c.oid) + pg_indexes_size(c.oid)"
            " + CASE WHEN reltoastrelid = 0 THEN 0 ELSE pg_total_relation_size(reltoastrelid) END)::bigint"
            " FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def api(old: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RdsApi]:
    """Two instances with tags, one of them in the way."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with RdsApi(old, instance="cli-1") as api:
        api.add_instance("cli-2")
        api.add_instance("other")
        for name in ("cli-1", "cli-2"):
            tag(api, name, migrate="shops", database=name.replace("-", "_"))
        yield api


def tag(api: RdsApi, name: str, **tags: str) -> None:
    client = boto3.client("rds", endpoint_url=api.endpoint_url, region_name=api.region)
    (told,) = client.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
    client.add_tags_to_resource(
        ResourceName=told["DBInstanceArn"], Tags=[{"Key": key, "Value": value} for key, value in tags.items()]
    )


@pytest.mark.server
def test_members_that_aws_lists_stay_who_they_were(
    fleet: Path, cli: Cli, old: PostgresServer, new: PostgresServer, api: RdsApi
) -> None:
    fleet.write_text(
        "apiVersion: planrunner/v1\nkind: Fleet\nmetadata: {name: shops}\nplan: shop.yaml\n"
        f"vars: {{target_port: {new.port}}}\ninventory:\n  rds:\n    tags: {{migrate: shops}}\n"
        f'    vars: {{source_port: port, database: "tag:database"}}\n'
        f"    region: {api.region}\n    endpoint_url: {api.endpoint_url}\n"
    )
    assert "ok, 0 members" in cli("fleet", "lint", "fleet.yaml").stdout, "lint asks nobody"
    assert json.loads(cli("fleet", "preview", "fleet.yaml", "--output", "json").stdout)["sums"]["tables"] == 4
    assert cli("fleet", "run", "fleet.yaml").returncode == 4
    assert "2 members: 2 waiting" in cli("fleet", "status", "fleet.yaml").stdout

    # A tag that comes later changes nothing until somebody asks.
    tag(api, "other", migrate="shops", database="cli_3")
    asked = len(api.calls)
    assert "2 members in waves: all 2" in cli("fleet", "lint", "fleet.yaml").stdout
    assert "2 members: 2 waiting" in cli("fleet", "run", "fleet.yaml").stdout
    assert len(api.calls) == asked
    ended = cli("fleet", "run", "fleet.yaml", "--rediscover")
    assert "new: other" in ended.stderr
    assert "3 members: 2 waiting, 1 failed" in ended.stdout

    text = fleet.read_text().replace("migrate: shops", "migrate: others")
    fleet.write_text(text)
    ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 6
    assert "--rediscover" in ended.stderr


@pytest.mark.server
def test_an_instance_that_two_members_share_restarts_once(
    fleet: Path, cli: Cli, old: PostgresServer, new: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NEW_PASSWORD", new.password)
    # The other way round: this server still needs another wal_level.
    ports = f"source_port: {old.port}, target_port: {new.port}"
    turned = f"source_port: {new.port}, target_port: {old.port}"
    fleet.write_text(fleet.read_text().replace(ports, turned))
    with RdsApi(new) as api:
        rds = f"rds: {{instance: {api.instance}, region: {api.region}, endpoint_url: '{api.endpoint_url}'}}"
        plan = (
            PLAN.replace("{env: SOURCE_PASSWORD}}", f"{{env: NEW_PASSWORD}}}}\n    {rds}")
            .replace("TARGET_PASSWORD", "SOURCE_PASSWORD")
            .replace("steps:\n", "steps:\n  - {id: logical, uses: enable_logical, with: {reboot: allow}}\n")
        )
        (fleet.parent / "shop.yaml").write_text(plan)
        ended = cli("fleet", "preview", "fleet.yaml", "--output", "json")
    told = json.loads(ended.stdout)
    assert [len(member["restarts"]) for member in told["members"]] == [1, 1], ended.stdout
    assert told["sums"]["restarts"] == [f"RDS instance {api.instance} ({api.region})"]
    assert [len(wave["restarts"]) for wave in told["waves"]] == [1, 1]


AWAY = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: shop}
vars:
  database: {type: string}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:1/{{ vars.database }}?sslmode=disable
  target:
    dsn: postgresql://postgres@127.0.0.1:2/{{ vars.database }}?sslmode=disable
steps:
  - {id: copy, uses: snapshot}
"""


def write_away(folder: Path, below: str) -> None:
    """A fleet of five whose servers do not answer."""
    (folder / "shop.yaml").write_text(AWAY)
    rows = "".join(f"    - {{name: shop-{n}, database: d{n}}}\n" for n in range(1, 6))
    (folder / "fleet.yaml").write_text(
        "apiVersion: planrunner/v1\nkind: Fleet\nmetadata: {name: shops}\nplan: shop.yaml\n"
        f"max_parallel: 1\ninventory:\n  rows:\n{rows}{below}"
    )


def test_after_so_many_failures_no_other_member_is_begun(tmp_path: Path, cli: Cli) -> None:
    write_away(tmp_path, "stop_after: 2\n")

    ended = cli("fleet", "run", "fleet.yaml", "--output", "json")
    assert ended.returncode == 1
    assert "failed: shop-1, shop-2" in ended.stderr
    told = json.loads(ended.stdout)
    assert told["counts"] == {"pending": 3, "failed": 2}
    assert all("127.0.0.1" in member["error"] for member in told["members"][:2])


def test_no_wave_begins_before_the_canary_is_done(tmp_path: Path, cli: Cli) -> None:
    write_away(tmp_path, "stop_after: 5\ncanary: [shop-3]\n")

    ended = cli("fleet", "run", "fleet.yaml", "--output", "json")
    assert ended.returncode == 1
    assert {m["name"]: m["attempts"] for m in json.loads(ended.stdout)["members"]} == {
        **{f"shop-{n}": 0 for n in (1, 2, 4, 5)},
        "shop-3": 1,
    }


def test_two_runs_do_not_work_on_one_fleet(tmp_path: Path, cli: Cli) -> None:
    write_away(tmp_path, "")
    folder = folder_of(tmp_path / "fleet.yaml")
    folder.make()

    with locked(folder.lock, SystemClock()):
        ended = cli("fleet", "run", "fleet.yaml")
    assert ended.returncode == 5
    assert "another run works on this fleet" in ended.stderr


def test_a_fleet_that_is_wrong_is_not_begun(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "fleet.yaml").write_text("apiVersion: planrunner/v1\nkind: Fleet\nplan: nowhere.yaml\n")

    for verb in ("lint", "run", "status"):
        ended = cli("fleet", verb, "fleet.yaml")
        assert ended.returncode == 2, verb
        assert "nowhere.yaml" in ended.stdout + ended.stderr
    assert not (tmp_path / "fleet.fleet").exists()


def test_a_fleet_that_is_taken_for_a_plan_is_told_its_own_command(tmp_path: Path, cli: Cli) -> None:
    write_away(tmp_path, "")

    assert "planrunner fleet lint" in cli("lint", "fleet.yaml").stdout
    assert "shop.yaml" in cli("lint", ".").stdout
    assert "fleet.yaml" not in cli("lint", ".").stdout, "a folder is searched for plans"


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    write_away(tmp_path, "stop_after: 3\n")
    run = subprocess.Popen(
        [sys.executable, "-m", "planrunner", "fleet", "run", "fleet.yaml"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    run.wait(120)

    known = chronicle(folder_of(tmp_path / "fleet.yaml").journal)
    assert [name for name, past in known.members.items() if past.ended] == ["shop-1", "shop-2", "shop-3"]
