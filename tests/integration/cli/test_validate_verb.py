"""``planrunner validate``: the report of everything, at any time, with or without a step for it; and its safe fixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import psycopg
import pytest

from planrunner.cli.opening import connector, open_plan
from planrunner.clock import SystemClock
from planrunner.engine.context import identities, plan_id_of
from planrunner.engine.exclusive import TargetLock
from planrunner.engine.launch import at_work
from planrunner.engine.validating import everything, fixable, mend
from planrunner.errors import LockedByAnother
from planrunner.model import Finding, Fix, Mark, Side
from planrunner.postgres.preflight_section import SECTIONS
from tests.integration.cli.conftest import environment, shop
from tests.terminal import terminal

if TYPE_CHECKING:
    from planrunner.cli.opening import OpenedPlan
    from planrunner.sandbox.servers import PostgresServer

SCHEMA = json.loads((Path(__file__).parents[3] / "schemas/findings.schema.json").read_text())


def headings(text: str) -> list[str]:
    return [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]


def report(ended: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ended.stdout)
    jsonschema.validate(found, SCHEMA)
    return found


def insert_step(plan: Path, step: str) -> None:
    plan.write_text(plan.read_text().replace("steps:\n", f"steps:\n  - {step}\n"))


@pytest.fixture
def secret_file(plan: Path, old: PostgresServer) -> Path:
    """The source's password in a file that others may read."""
    path = plan.with_name("source.password")
    path.write_text(f"{old.password}\n")
    path.chmod(0o644)
    plan.write_text(plan.read_text().replace("env: OLD_PASSWORD", "file: ./source.password"))
    return path


def test_it_reports_every_section_before_and_after_the_run_without_a_step_of_its_own(
    cli: Any, plan: Path
) -> None:
    before = cli("validate", str(plan))
    assert before.returncode == 0, before.stdout + before.stderr
    shown = headings(before.stdout)
    assert {"Local Environment", "Network Connectivity", "Source Permissions", "Capacity"} < set(shown)
    assert shown == sorted(shown, key=SECTIONS.index), "each once, in the order of the report"
    assert "PASSED: all pre-flight checks successful" in before.stdout.splitlines()[-1]
    assert not list(plan.parent.glob("*.state.json")), "it only looks"
    assert cli("run", str(plan)).returncode == 0
    after = cli("validate", str(plan))
    assert after.returncode == 0, after.stdout + after.stderr
    assert "Database holds what an earlier run of this plan brought" in after.stdout


def test_a_failure_has_its_code_its_reason_its_page_and_ends_with_exit_code_1(
    cli: Any, plan: Path, new: PostgresServer
) -> None:
    with psycopg.connect(shop(new), autocommit=True) as session:
        session.execute("CREATE TABLE strange (id int)")
    plan.write_text(plan.read_text().replace(f"@127.0.0.1:{new.port}/", "@localhost:1/"))
    ended = cli("validate", str(plan))
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    place = next(n for n, line in enumerate(lines) if "Target database not reachable" in line)
    assert lines[place].startswith("  ✗ ")
    assert lines[place].endswith("[PR0201]")
    assert lines[place + 1].startswith("      why: ")
    assert any("see docs/reference/checks/PR0201.md" in line for line in lines[place:])
    assert "✓ Source database reachable" in ended.stdout, "the other side is checked all the same"
    assert lines[-1].startswith("FAILED: 1 of ")
    told = report(cli("validate", str(plan), "--output", "json"))
    assert told["passed"] is False
    assert [f["code"] for f in told["findings"] if f["mark"] == "fail"] == ["PR0201"]
    confined = cli("validate", str(plan), "--section", "schema")
    assert confined.returncode == 1, "what could not be checked is no success of the rest"
    assert "[PR0201]" in confined.stdout


def test_it_can_be_confined_to_sections_and_codes(cli: Any, plan: Path) -> None:
    told = report(cli("validate", str(plan), "--section", "schema", "--code", "pr0201", "--output", "json"))
    assert {f["section"] for f in told["findings"]} == {"Schema", "Network Connectivity"}
    assert {f["code"] for f in told["findings"] if f["section"] == "Network Connectivity"} == {"PR0201"}
    assert told["only"] == ["Schema", "PR0201"]
    wrong = cli("validate", str(plan), "--code", "PR0210")
    assert wrong.returncode == 2
    assert "Did you mean" in wrong.stderr
    assert "Local Environment" in cli("validate", str(plan), "--section", "nowhere").stderr


def test_an_ignored_failure_lets_the_run_go_and_stays_in_every_report(
    cli: Any, plan: Path, secret_file: Path
) -> None:
    insert_step(plan, "{id: check, uses: validate, with: {warnings_fail: true}}")
    refused = cli("run", str(plan))
    assert refused.returncode == 1
    assert "has mode 0644 [PR0104]" in refused.stderr
    assert "see docs/reference/checks/PR0104.md" in refused.stderr
    # The sandbox's servers save the time of a real one's disk.
    others = "{check: PR0518, reason: servers of a test}"
    ignoring = f"{{warnings_fail: true, ignore: [{{check: PR0104, reason: one account only}}, {others}]}}"
    plan.write_text(plan.read_text().replace("{warnings_fail: true}", ignoring))
    told = report(cli("validate", str(plan), "--output", "json"))
    (ignored,) = [f for f in told["findings"] if f["ignored"] and f["code"] != "PR0518"]
    assert (ignored["code"], ignored["mark"], ignored["reason"]) == ("PR0104", "fail", "one account only")
    assert told["counts"]["ignored"] == 1 + sum(f["code"] == "PR0518" for f in told["findings"])
    for shown in (cli("validate", str(plan)).stdout, cli("preview", str(plan)).stdout):
        assert "○ The source's password can be read" in shown
        assert "ignored: one account only" in shown
    markdown = cli("preview", str(plan), "--format", "markdown").stdout
    assert "**check** ignores [PR0104]" in markdown
    assert cli("run", str(plan)).returncode == 0
    for form in ("html", "markdown", "json"):
        assert "[PR0104] (ignored: one account only)" in cli(
            "report", str(plan), "--format", form
        ).stdout.replace("\\", "")
    secret_file.chmod(0o600)


def test_what_is_ignored_in_vain_is_told(cli: Any, plan: Path) -> None:
    insert_step(plan, "{id: check, uses: validate, with: {ignore: [{check: PR0104, reason: for now}]}}")
    for verb in ("validate", "preview"):
        ended = cli(verb, str(plan))
        assert ended.returncode == 0
        assert "! PR0104 is ignored, and finds nothing [PR0002]" in ended.stdout
    assert "PR0104 is ignored, and finds nothing" in cli("run", str(plan)).stdout


def test_a_fix_is_shown_and_made_only_when_somebody_agrees(cli: Any, plan: Path, secret_file: Path) -> None:
    asked = cli("validate", str(plan), "--fix")
    assert asked.returncode == 4
    assert f"chmod 600 {secret_file}" in asked.stderr
    assert secret_file.stat().st_mode & 0o777 == 0o644
    mended = report(cli("validate", str(plan), "--fix", "--yes", "--output", "json"))
    assert secret_file.stat().st_mode & 0o777 == 0o600
    assert [(one["code"], one["failure"]) for one in mended["fixed"]] == [("PR0104", None)]
    assert not [f for f in mended["findings"] if f["code"] == "PR0104"], "it was checked again"
    journal = [json.loads(line) for line in plan.with_name("shop.yaml.events.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["fields"]["code"], e["fields"]["statement"]) for e in journal] == [
        (kind, "PR0104", f"chmod 600 {secret_file}") for kind in ("intent", "outcome")
    ]
    again = cli("validate", str(plan), "--fix", "--yes")
    assert again.returncode == 0
    assert "nothing that is found has a fix" in again.stderr


def test_each_fix_is_asked_for_at_a_terminal(plan: Path, secret_file: Path) -> None:
    with terminal(["validate", str(plan), "--fix"], folder=plan.parent, environment=environment()) as there:
        there.expect(f"chmod 600 {secret_file}")
        there.answer("Mend PR0104 so? [y/N]", "n")
        assert there.wait() == 0
    assert secret_file.stat().st_mode & 0o777 == 0o644
    with terminal(["validate", str(plan), "--fix"], folder=plan.parent, environment=environment()) as there:
        there.answer("Mend PR0104 so? [y/N]", "y")
        there.expect("✓ fixed PR0104")
        assert there.wait() == 0
    assert secret_file.stat().st_mode & 0o777 == 0o600


def test_a_fix_whose_runner_is_killed_is_on_record_and_nothing_stays_locked(
    cli: Any, plan: Path, secret_file: Path
) -> None:
    killed = cli("validate", str(plan), "--fix", "--yes", PLANRUNNER_FAILPOINTS="fix.before:kill")
    assert killed.returncode < 0
    events = plan.with_name("shop.yaml.events.jsonl").read_text()
    assert [json.loads(line)["kind"] for line in events.splitlines()] == ["intent"]
    assert secret_file.stat().st_mode & 0o777 == 0o644
    killed = cli("validate", str(plan), "--fix", "--yes", PLANRUNNER_FAILPOINTS="fix.after:kill")
    assert killed.returncode < 0
    assert secret_file.stat().st_mode & 0o777 == 0o600
    assert cli("validate", str(plan), "--fix", "--yes").returncode == 0


def test_a_fix_is_not_made_while_a_run_holds_the_plan(
    cli: Any, plan: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plan.parent)
    opened = open_plan(plan, None, None, None)
    with at_work(opened.plan, opened.files, opened.parts()):
        refused = cli("validate", str(plan), "--fix", "--yes")
        assert refused.returncode == 5
        assert secret_file.stat().st_mode & 0o777 == 0o644
        assert cli("validate", str(plan)).returncode == 0, "looking is allowed"


@pytest.fixture
def opened(plan: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedPlan:
    monkeypatch.chdir(plan.parent)
    return open_plan(plan, None, None, None)


def finding(*statements: str, where: Side = Side.TARGET, code: str = "PR0802") -> Finding:
    return Finding(
        section="Schema",
        mark=Mark.WARN,
        text="it is missing",
        code=code,
        fix=Fix(where=where, statements=statements),
    )


def test_statements_of_a_fix_are_executed_each_in_its_own_transaction_and_a_refused_one_leaves_the_rest(
    opened: OpenedPlan, new: PostgresServer, old: PostgresServer
) -> None:
    fixes = [
        finding("COMMENT ON SCHEMA public IS '100 % of {it}'", "SELECT 1/0", code="PR0801"),
        finding("ANALYZE public.item", where=Side.SOURCE),
    ]
    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        done = mend(setup, fixes)
    assert [one.failure is None for one in done] == [False, True]
    assert "division by zero" in str(done[0].failure)
    with psycopg.connect(shop(new)) as session:
        row = session.execute("SELECT obj_description('public'::regnamespace)").fetchone()
    assert row == ("100 % of {it}",), "the statement before the refused one stays"
    with psycopg.connect(shop(old)) as session:
        row = session.execute("SELECT reltuples FROM pg_class WHERE relname = 'item'").fetchone()
    assert row == (100,)


def test_no_fix_is_made_while_another_machine_works_on_the_target(
    opened: OpenedPlan, new: PostgresServer
) -> None:
    world = connector()(opened.plan, "another")
    plan_id = plan_id_of(opened.plan.name, identities(world, source_may_be_away=False))
    lock = TargetLock(world.target, plan_id, SystemClock())
    lock.hold()
    try:
        with (
            pytest.raises(LockedByAnother, match="another run works on this plan"),
            at_work(opened.plan, opened.files, opened.parts()) as setup,
        ):
            mend(setup, [finding("COMMENT ON SCHEMA public IS 'changed'")])
    finally:
        lock.close()
        world.close()
    with psycopg.connect(shop(new)) as session:
        row = session.execute("SELECT obj_description('public'::regnamespace)").fetchone()
    assert row != ("changed",)


def test_what_a_step_will_mend_or_the_plan_ignores_has_no_fix_to_be_made(
    opened: OpenedPlan, secret_file: Path
) -> None:
    plan = open_plan(opened.plan.path, None, None, None).plan
    results = everything(plan, None, connect=connector(), clock=SystemClock())
    assert [f.code for f in fixable(results)] == ["PR0104"]
    insert_step(
        opened.plan.path, "{id: check, uses: validate, with: {ignore: [{check: PR0104, reason: mine}]}}"
    )
    plan = open_plan(opened.plan.path, None, None, None).plan
    assert fixable(everything(plan, None, connect=connector(), clock=SystemClock())) == ()


def test_explain_tells_a_check_as_its_page_does(cli: Any) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/checks/PR0104.md").read_text()
    assert cli("explain", "pr0104").stdout.strip() == page.partition("-->\n\n")[2].strip()
    assert "[PR0104](checks/PR0104.md)" in cli("explain", "checks").stdout
    unknown = cli("explain", "PR0199")
    assert unknown.returncode == 2
    assert "Did you mean PR01" in unknown.stderr
