"""The verbs on a real plan between two real databases."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest


def test_lint_accepts_a_good_plan_and_tells_all_problems_of_a_bad_one(cli: Any, plan: Path) -> None:
    assert cli("lint", str(plan)).returncode == 0
    bad = plan.with_name("bad.yaml")
    bad.write_text(
        plan.read_text().replace("owners: login", "jobs: many").replace("kind: MigrationPlan", "kind: No")
    )
    ended = cli("lint", str(plan), str(bad))
    assert ended.returncode == 2
    assert "2 problems" in ended.stdout
    problems = json.loads(cli("lint", str(bad), "--output", "json").stdout)["problems"]
    assert len(problems) == 2


def test_an_invalid_plan_is_not_run(cli: Any, plan: Path) -> None:
    plan.write_text(plan.read_text().replace("uses: snapshot", "uses: snapshoot"))
    ended = cli("run", str(plan))
    assert ended.returncode == 2
    assert "snapshot" in ended.stderr
    assert "Traceback" not in ended.stderr


def unmeasured(preview: str) -> list[str]:
    """A preview's actions, without its head and its estimates: no two measure the same."""
    return preview[preview.index("\n  - ") :].splitlines()


def test_preview_shows_the_statements_and_tells_by_its_exit_code(cli: Any, plan: Path) -> None:
    ended = cli("preview", str(plan), "--detailed-exitcode")
    assert ended.returncode == 10
    assert "CREATE PUBLICATION" in ended.stdout
    dry = cli("run", str(plan), "--dry-run")
    assert unmeasured(dry.stdout) == unmeasured(ended.stdout)
    out = plan.with_name("preview.json")
    shown = cli("preview", str(plan), "--format", "markdown", "--out", str(out))
    assert (shown.returncode, "<details>" in shown.stdout) == (0, True)
    assert json.loads(out.read_text())["kind"] == "planrunner preview"
    tree = json.loads(cli("preview", str(plan), "--format", "json").stdout)
    assert tree["steps"][0]["id"] == "copy"
    assert not plan.with_name("shop.yaml.state.json").exists()


def test_run_moves_the_rows_and_leaves_state_journal_and_report(cli: Any, plan: Path, new: Any) -> None:
    ended = cli("run", str(plan))
    assert ended.returncode == 0, ended.stderr
    assert "100 rows of 1 tables" in ended.stdout
    with psycopg.connect(new.dsn("postgres", "shop", password=new.password)) as session:
        assert session.execute("SELECT count(*) FROM item").fetchall() == [(100,)]
    for name in ("state.json", "events.jsonl", "report.md", "report.json", "report.html"):
        assert plan.with_name(f"shop.yaml.{name}").stat().st_size > 0
    again = cli("run", str(plan), "--output", "json")
    assert [json.loads(line)["kind"] for line in again.stdout.splitlines()] == ["run_started", "run_ended"]
    assert cli("preview", str(plan), "--detailed-exitcode").returncode == 0


def test_json_output_is_one_event_a_line(cli: Any, plan: Path) -> None:
    ended = cli("run", str(plan), "--output", "json")
    kinds = [json.loads(line)["kind"] for line in ended.stdout.splitlines()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_ended"
    assert kinds.count("intent") == kinds.count("outcome") > 0


def test_a_manual_step_waits_is_approved_and_goes_on(cli: Any, plan: Path) -> None:
    plan.write_text(plan.read_text().replace("uses: snapshot,", "uses: snapshot, approval: manual,"))
    waiting = cli("run", str(plan), "--no-input")
    assert waiting.returncode == 4
    assert f"planrunner approve {plan} copy" in waiting.stderr
    approved = cli("approve", str(plan), "--because", "the shop is closed")
    assert approved.returncode == 0
    assert cli("run", str(plan), "--no-input").returncode == 0
    known = json.loads(cli("state", "show", str(plan)).stdout)
    assert known["approvals"][0]["why"] == "the shop is closed"


def test_status_tells_steps_before_and_after_the_run(cli: Any, plan: Path) -> None:
    before = json.loads(cli("status", str(plan), "--output", "json").stdout)
    assert before["steps"][0]["status"] == "pending"
    cli("run", str(plan))
    after = json.loads(cli("status", str(plan), "--output", "json").stdout)
    assert after["steps"][0]["status"] == "done"
    assert after["steps"][0]["figures"]["rows"] == 100
    assert after["running"] is None
    drift = cli("status", str(plan), "--drift")
    assert drift.returncode == 0
    assert "copy  snapshot  done" in drift.stdout


def test_status_works_while_a_server_is_away(cli: Any, plan: Path, new: Any) -> None:
    cli("run", str(plan))
    plan.write_text(plan.read_text().replace(f":{new.port}/", ":1/"))
    ended = cli("status", str(plan))
    assert ended.returncode == 0
    assert "no live figures: target" in ended.stdout


def test_report_is_written_in_every_form(cli: Any, plan: Path) -> None:
    cli("run", str(plan))
    assert "# Migration shop: migrated" in cli("report", str(plan)).stdout
    told = cli("report", str(plan), "--format", "json").stdout
    assert json.loads(told)["rows"] == 100
    assert [server["version"][:2] for server in json.loads(told)["servers"]] == ["16", "18"]
    page = plan.with_name("elsewhere.html")
    assert cli("report", str(plan), "--format", "html", "--out", str(page)).stdout == ""
    assert hashlib.sha256(told.encode()).hexdigest() in page.read_text()
    assert page.read_text() == plan.with_name("shop.yaml.report.html").read_text()


def test_another_state_file_is_honoured_by_all_verbs(cli: Any, plan: Path) -> None:
    elsewhere = plan.with_name("other.state.json")
    cli("run", str(plan), "--state", str(elsewhere))
    assert plan.with_name("other.report.md").exists()
    assert not plan.with_name("shop.yaml.state.json").exists()
    assert cli("state", "show", str(plan)).returncode == 2
    assert cli("state", "show", str(plan), "--state", str(elsewhere)).returncode == 0


def test_cleanup_needs_consent_and_then_leaves_nothing(cli: Any, plan: Path, old: Any) -> None:
    cli("run", str(plan))
    assert cli("cleanup", str(plan), "--no-input").returncode == 4
    ended = cli("cleanup", str(plan), "--yes")
    assert ended.returncode == 0, ended.stderr
    with psycopg.connect(old.dsn("postgres", "shop", password=old.password)) as session:
        assert session.execute("SELECT count(*) FROM pg_replication_slots").fetchall() == [(0,)]
        assert session.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]


def test_a_wrong_password_is_one_message_without_a_traceback_or_a_secret(cli: Any, plan: Path) -> None:
    ended = cli("preview", str(plan), OLD_PASSWORD="correcthorse")
    assert ended.returncode == 1
    assert "password" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "correcthorse" not in ended.stderr + ended.stdout


def test_a_server_that_is_down_is_one_message(cli: Any, plan: Path, new: Any) -> None:
    plan.write_text(plan.read_text().replace(f":{new.port}/", ":1/"))
    ended = cli("run", str(plan))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: target:")
    assert "Traceback" not in ended.stderr


def test_a_damaged_state_is_refused(cli: Any, plan: Path) -> None:
    plan.with_name("shop.yaml.state.json").write_text("{")
    assert cli("run", str(plan)).returncode == 6


def test_an_edited_finished_step_is_refused_until_accepted(cli: Any, plan: Path) -> None:
    cli("run", str(plan))
    plan.write_text(plan.read_text().replace("owners: login", "owners: login, jobs: 2"))
    refused = cli("run", str(plan))
    assert refused.returncode == 6
    assert "with.jobs" in refused.stderr
    assert cli("run", str(plan), "--accept", "copy").returncode == 0


@pytest.fixture
def held_run(plan: Path, old: Any) -> Any:
    """A run that waits in the middle of its step, since a writer keeps the slot from being made."""
    with psycopg.connect(old.dsn("postgres", "shop", password=old.password)) as writer:
        writer.execute("INSERT INTO item VALUES (1000, 'open')")
        child = subprocess.Popen(
            [sys.executable, "-m", "planrunner", "run", str(plan), "--output", "json"],
            env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if json.loads(line)["kind"] == "intent":
                break
        yield child
        child.kill()
        child.communicate()
        writer.rollback()


def test_a_second_run_is_refused_and_status_names_the_first(cli: Any, plan: Path, held_run: Any) -> None:
    ended = cli("run", str(plan))
    assert ended.returncode == 5
    assert f"process {held_run.pid}" in ended.stderr
    assert f"process {held_run.pid}" in cli("status", str(plan)).stdout
    elsewhere = cli("run", str(plan), "--state", "elsewhere.state.json")
    assert elsewhere.returncode == 5
    assert "planrunner/" in elsewhere.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_the_command_to_go_on(plan: Path, held_run: Any, number: int) -> None:
    held_run.send_signal(number)
    _, stderr = held_run.communicate(timeout=30)
    assert held_run.returncode == 130
    assert f"planrunner run {plan}" in stderr
    assert "Traceback" not in stderr


def test_a_killed_run_is_shown_as_interrupted(cli: Any, plan: Path, held_run: Any) -> None:
    held_run.kill()
    held_run.wait()
    steps = json.loads(cli("status", str(plan), "--output", "json").stdout)["steps"]
    assert steps[0]["status"] == "interrupted"


def test_doctor_checks_this_machine(cli: Any) -> None:
    ended = cli("doctor")
    assert "✓ Python 3." in ended.stdout
    assert "pg_dump" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("PASSED: ")


def test_init_writes_a_plan_that_lints(cli: Any, tmp_path: Path) -> None:
    ended = cli(
        "init", "--source", "postgresql://a:hunter2@h/d", "--target", "postgresql://b@i/d", "--name", "x"
    )
    assert ended.returncode == 0, ended.stderr
    text = (tmp_path / "plan.yaml").read_text()
    assert "hunter2" not in text + ended.stdout
    assert "SOURCE_PASSWORD" in ended.stdout
    assert cli("lint", "plan.yaml").returncode == 0


def test_schema_and_explain_know_the_steps(cli: Any) -> None:
    assert "snapshot" in json.dumps(json.loads(cli("schema").stdout))
    assert "snapshot" in cli("explain", "snapshot").stdout
