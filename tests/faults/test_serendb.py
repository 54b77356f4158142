"""A copy that SerenAI's cloud makes, against a stand-in: jobs that are slow, fail, or of which the reply is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.acceptance.helpers import contents
from tests.faults.runner import Runner
from tests.faults.scene import CLOCK, servers
from tests.seren_api import SUBSCRIPTION, Fault
from tests.seren_scene import KEY, scene, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.seren_scene import Scene

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
WAITS, FAILED = 4, 1


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEREN_API_KEY", KEY)


def assert_secret(one: Scene, said: str) -> None:
    """Neither the key nor a password is in what was said or written."""
    written = {
        path.name: path.read_text("utf-8", "replace") for path in one.one.folder.iterdir() if path.is_file()
    }
    for secret in (KEY, one.one.source.password, one.one.target.password):
        assert secret not in said
        assert [name for name, text in written.items() if secret in text] == []


def until(condition: object, seconds: float = 60.0) -> None:
    """Wait until the condition, a callable, holds."""
    assert callable(condition)
    end = CLOCK.monotonic() + seconds
    while not condition():
        assert CLOCK.monotonic() < end, "it does not come to that"
        CLOCK.sleep(0.05)


def test_the_cloud_copies_and_follows_and_the_target_is_proven_equal(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "whole") as it:
        shown = it.one.succeeds("preview")
        assert f'POST {it.api.url}/jobs {{"schema_version": "1.0", "command": "init"' in shown
        assert "x-api-key from env:SEREN_API_KEY" in shown
        assert "SEREN_API_KEY is set; --local does it here" in shown
        assert it.api.jobs == {}
        ours, ledger, _ = shown.partition("writes its ledger")
        assert ledger
        assert "same (verify)" in ours, "neither job keeps one"
        it.api.faults["POST"] = [Fault(status=429), Fault(after=1.0)]
        said = it.one.succeeds("run", "--until", "copy")
        write(it.one, "INSERT INTO customer VALUES (501, 'written after the copy')")
        said += it.one.succeeds("run")
        assert contents(it.one.ours) == contents(it.one.theirs)
        (init,), (sync,) = it.api.made("init"), it.api.made("sync")
        assert it.job("copy")["job_id"] == init.id
        assert it.job("follow") | {"job_id": sync.id, "subscriptions": [SUBSCRIPTION]} == it.job("follow")
        assert init.body["filter"] == {"include_databases": ["whole"]}
        assert init.body["options"] == {"drop_existing": False, "enable_sync": False}
        assert init.id in it.one.succeeds("status")
        assert_secret(it, shown + said)
        assert len(it.api.jobs) == 2


def test_a_runner_that_is_killed_while_the_job_is_at_work_goes_on_with_the_same_job(
    pair: Pair, tmp_path: Path
) -> None:
    with scene(pair, tmp_path, "killed") as it:
        it.api.hold()
        runner = Runner(it.one.start("run", "--until", "copy"))
        until(lambda: it.api.jobs and next(iter(it.api.jobs.values())).asked)
        runner.child.kill()
        assert runner.ended()[0] == -signal.SIGKILL
        (job,) = it.api.jobs.values()
        assert it.job("copy")["job_id"] == job.id
        assert f"wait for job {job.id}" in it.one.succeeds("preview")
        it.api.release()
        said = it.one.succeeds("run")
        assert len(it.api.made("init")) == 1
        assert contents(it.one.ours) == contents(it.one.theirs)
        assert_secret(it, said)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(lost=True),
        pytest.param(Fault(garbled=b"<html>"), marks=pytest.mark.soak),
        pytest.param(Fault(garbled=b"{}"), marks=pytest.mark.soak),
    ],
)
def test_a_job_whose_reply_is_lost_is_not_made_again_before_somebody_says_so(
    pair: Pair, tmp_path: Path, fault: Fault
) -> None:
    with scene(pair, tmp_path, "lost") as it:
        it.api.faults["POST"] = [fault]
        code, said = it.one.run("run", "--until", "copy")
        assert code == WAITS, said
        assert "whether the job was made nobody knows" in said
        code, said = it.one.run("run", "--until", "copy", "--yes")
        assert code == WAITS, said
        assert len(it.api.jobs) == 1
        (job,) = it.api.jobs.values()
        it.one.succeeds("state job", "copy", "--id", job.id, "--because", "the console shows it")
        said += it.one.succeeds("run")
        assert len(it.api.made("init")) == 1
        assert contents(it.one.ours) == contents(it.one.theirs)
        assert_secret(it, said)


def test_a_target_that_is_named_by_its_branch_is_looked_for_and_filled(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "named", seren=", project: pr-1, branch: br-2") as it:
        server = it.one.target
        url = f"postgresql://postgres:{server.password}@orders.serendb.com:{server.port}/named"
        elsewhere = url.replace("orders.", "billing.")
        code, said = it.one.run("validate", "--code", "PR1407")
        assert code == FAILED
        assert "the key sees no project pr-1; there are no projects" in said

        branches = {"br-1": {"name": "main", "databases": {"named": elsewhere}}}
        it.api.projects["pr-1"] = {
            "name": "orders",
            "enable_logical_replication": True,
            "branches": branches,
        }
        code, said = it.one.run("run", "--until", "copy")
        assert code == FAILED
        assert "Project orders has no branch br-2; branches there are: main (br-1)" in said
        assert it.api.jobs == {}

        branches["br-2"] = {"name": "staging", "databases": {"named": elsewhere}}
        code, said = it.one.run("run", "--until", "copy")
        assert code == FAILED
        assert "The job would fill billing.serendb.com" in said
        assert it.api.jobs == {}

        branches["br-2"]["databases"] = {"named": url}
        said += it.one.succeeds("run")
        assert "The target is branch staging of project orders, database named" in said
        assert contents(it.one.ours) == contents(it.one.theirs)
        for job in it.api.jobs.values():
            assert "target_url" not in job.body
            assert it.one.target.password not in str(job.body)
        assert_secret(it, said)


@pytest.mark.soak
def test_a_job_that_was_not_made_is_made_once_somebody_says_so(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "none") as it:
        it.api.faults["POST"] = [Fault(status=502)]
        code, said = it.one.run("run", "--until", "copy")
        assert code == WAITS, said
        assert it.api.jobs == {}
        code, said = it.one.run(
            "state job", "copy", "--none", "--because", "looked", failpoints="seren.job_named:kill"
        )
        assert code == -signal.SIGKILL, said
        it.one.succeeds("run", "--until", "copy")
        assert len(it.api.made("init")) == 1


@pytest.mark.parametrize(
    "point",
    [
        "seren.job_made",
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("seren.intent_noted", "seren.before_post", "seren.posted")
        ),
    ],
)
def test_a_runner_killed_around_the_request_asks_whether_there_is_a_job(
    pair: Pair, tmp_path: Path, point: str
) -> None:
    with scene(pair, tmp_path, "around") as it:
        code, said = it.one.run("run", "--until", "copy", failpoints=f"{point}:kill")
        assert code == -signal.SIGKILL, said
        code, said = it.one.run("run", "--until", "copy")
        assert code == WAITS, said
        there = list(it.api.jobs)
        named = ("--id", there[0]) if there else ("--none",)
        assert bool(there) == (point in {"seren.posted", "seren.job_made"})
        it.one.succeeds("state job", "copy", *named, "--because", "looked")
        it.one.succeeds("run", "--until", "copy")
        assert len(it.api.made("init")) == 1


@pytest.mark.soak
@pytest.mark.parametrize("point", ["seren.job_noted", "seren.completion_noted"])
def test_a_runner_killed_once_the_job_is_noted_goes_on_with_it(
    pair: Pair, tmp_path: Path, point: str
) -> None:
    with scene(pair, tmp_path, "noted") as it:
        code, said = it.one.run("run", "--until", "copy", failpoints=f"{point}:kill")
        assert code == -signal.SIGKILL, said
        it.one.succeeds("run", "--until", "copy")
        assert len(it.api.made("init")) == 1


def test_a_job_that_fails_fails_the_step_with_its_log_and_no_password(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "failing") as it:
        it.api.failing = True
        code, said = it.one.run("run", "--until", "copy")
        assert code == FAILED, said
        (job,) = it.api.jobs.values()
        assert f"job {job.id} of SerenAI's cloud failed, exit code 1" in said
        assert "source postgresql://postgres:***@orders.example.com" in said
        assert it.one.source.password in "".join(job.logs)
        assert_secret(it, said)
        # The next run finds what it left, and makes no job over it.
        code, said = it.one.run("run", "--until", "copy")
        assert code == FAILED, said
        assert "Target has 2 tables of the plan's already" in said
        assert len(it.api.jobs) == 1


@pytest.mark.soak
def test_a_runner_killed_once_its_request_was_refused_makes_the_job_later(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "refused") as it:
        it.api.faults["POST"] = [Fault(status=429)]
        code, said = it.one.run("run", "--until", "copy", failpoints="seren.intent_withdrawn:kill")
        assert code == -signal.SIGKILL, said
        assert it.api.jobs == {}
        it.one.succeeds("run", "--until", "copy")
        assert len(it.api.made("init")) == 1


@pytest.mark.soak
def test_an_api_that_stumbles_is_asked_again_and_no_job_is_made_twice(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "stumbles") as it:
        # The key is tried before the run, before the step and before its second attempt; the rest asks for the job.
        tried = [Fault(), Fault(), Fault(status=500), Fault(lost=True), Fault()]
        it.api.faults["GET"] = [
            *tried,
            Fault(status=503),
            Fault(lost=True),
            Fault(garbled=b"["),
            Fault(status=429),
        ]
        it.api.faults["POST"] = [Fault(status=429), Fault(after=3.0)]
        it.one.succeeds("run", "--until", "copy")
        assert len(it.api.jobs) == 1
        assert it.api.faults["GET"] == []


def test_a_key_that_is_not_taken_stops_the_run_before_anything(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "seren_wr0ng_9876543210fedcba"
    monkeypatch.setenv("SEREN_API_KEY", wrong)
    with scene(pair, tmp_path, "wrong") as it:
        code, said = it.one.run("run")
        assert code == FAILED, said
        assert "it answered 401: the key *** is not valid" in said
        assert "run here: --local" in said
        assert wrong not in said
        assert it.api.jobs == {}


def test_local_leaves_the_cloud_alone(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "here") as it:
        said = it.one.succeeds("run", "--local")
        assert contents(it.one.ours) == contents(it.one.theirs)
        # What was begun here stays here, whatever the environment says.
        it.one.succeeds("status")
        it.one.succeeds("cleanup", "--yes")
        assert it.one.left() == []
        assert it.api.requests == [], said


@pytest.mark.soak
def test_a_stream_from_here_is_refused_after_a_copy_of_the_cloud(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "mixed") as it:
        it.one.succeeds("run", "--until", "copy")
        code, said = it.one.run("run", "--local")
        assert code == FAILED, said
        assert "only the cloud knows where its stream begins; but --local was given" in said
        assert it.api.made("sync") == []


@pytest.mark.soak
def test_what_the_cloud_says_it_did_is_looked_at(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "looked") as it:
        it.one.succeeds("run", "--until", "follow")
        with psycopg.connect(it.one.theirs, autocommit=True) as session:
            session.execute(
                "SET session_replication_role = replica; UPDATE customer SET name = 'other' WHERE id = 7"
            )
        code, said = it.one.run("run")
        assert code == 7, said
        assert "public.customer" in said


@pytest.mark.soak
def test_filters_become_the_jobs_filter(pair: Pair, tmp_path: Path) -> None:
    with scene(pair, tmp_path, "filtered", copy=", with: {filters: {exclude: [public.aud*]}}") as it:
        it.one.succeeds("run")
        (init,) = it.api.made("init")
        assert init.body["filter"] == {
            "include_databases": ["filtered"],
            "include_tables": ["filtered.customer"],
        }
        assert contents(it.one.theirs).keys() == {"public.customer"}


def test_what_a_job_cannot_be_told_stops_the_run(pair: Pair, tmp_path: Path) -> None:
    rows = ", with: {filters: {rows: {public.customer: 'id < 10'}}}"
    with scene(pair, tmp_path, "untold", copy=rows, last="cutover_verify") as it:
        code, said = it.one.run("run")
        assert code == FAILED, said
        assert "SerenAI's cloud can't be told of filters.rows" in said
        assert "The cutover needs planrunner's own stream" in said
        assert it.api.jobs == {}
        assert "blocked" in it.one.succeeds("preview")


BACK = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: back}}
connections:
  source:
    dsn: postgresql://postgres@orders.example.com:{source}/back?sslmode=disable&hostaddr=127.0.0.1
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@orders.serendb.com:{target}/back?sslmode=disable&hostaddr=127.0.0.1
    password: {{secret: {{env: TARGET_PASSWORD}}}}
    seren: {{base: "{url}", console: "{url}", project: pr-1, run_on: local}}
steps:
  - {{id: logical, uses: enable_logical}}
  - {{id: copy, uses: snapshot}}
  - {{id: follow, uses: sync}}
  - {{id: over, uses: cutover_verify, with: {{reverse: true}}}}
"""


@pytest.mark.parametrize(
    "point", ["seren.patched", pytest.param("seren.before_patch", marks=pytest.mark.soak)]
)
def test_the_way_back_turns_logical_replication_on_in_the_project(tmp_path: Path, point: str) -> None:
    with servers(target={"wal_level": "replica"}) as pair, scene(pair, tmp_path, "back") as it:
        it.one.plan.write_text(BACK.format(source=pair[0].port, target=pair[1].port, url=it.api.url))
        project = it.api.projects["pr-1"] = {"name": "orders", "enable_logical_replication": False}
        it.api.on_patch = lambda: pair[1].restart({"wal_level": "logical"})
        shown = it.one.succeeds("preview")
        assert f'PATCH {it.api.url}/api/projects/pr-1 {{"enable_logical_replication": true}}' in shown
        code, said = it.one.run("run", "--until", "logical")
        assert code == WAITS, said
        assert project["enable_logical_replication"] is False
        code, said = it.one.run("run", "--until", "logical", "--yes", failpoints=f"{point}:kill")
        assert code == -signal.SIGKILL, said
        whole = point == "seren.before_patch"
        said = it.one.succeeds("run", "--yes", *(() if whole else ("--until", "logical")))
        assert project["enable_logical_replication"] is True
        with psycopg.connect(it.one.theirs) as session:
            assert session.execute("SHOW wal_level").fetchone() == ("logical",)
        assert it.api.jobs == {}
        assert_secret(it, shown + said)
        if whole:
            assert contents(it.one.ours) == contents(it.one.theirs)
            it.one.succeeds("cleanup", "--yes")
