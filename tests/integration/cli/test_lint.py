"""`planrunner lint` as a user and as a pipeline meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.linting.inspect import inspect, together
from planrunner.linting.page import PATH, page
from planrunner.linting.rules import Severity, rules
from planrunner.linting.sarif import to_sarif
from planrunner.loading import codes
from planrunner.loading.variables import Given

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
GOOD = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: orders}
vars:
  host: {default: old.example.com}
connections:
  source:
    dsn: host={{ vars.host }} dbname=app user=migrator
    password: {secret: {env: SOURCE_PASSWORD}}
  target:
    dsn: host=new.example.com dbname=app user=migrator
    password: {secret: {env: TARGET_PASSWORD}}
steps:
  - {id: logical, uses: enable_logical}
  - {id: check, uses: validate}
  - {id: copy, uses: snapshot}
  - {id: follow, uses: sync, with: {max_wal_retained: 50GB}}
  - {id: cutover, uses: cutover_verify, approval: manual, with: {reverse: true}}
"""
# For each rule of practice: what to change in the good plan so that it is told, once, where.
REGRETTABLE = {
    "PR201": ((" approval: manual,", ""), 18),
    "PR202": ((", with: {reverse: true}", ""), 18),
    "PR203": (("host=new.example.com", "sslmode=require host=new.example.com"), 11),
    "PR204": (("  - {id: check, uses: validate}\n", ""), 15),
    "PR205": (("  - {id: follow", "  - {id: rights, uses: grant}\n  - {id: follow"), 17),
    "PR206": (("  - {id: follow, uses: sync, with: {max_wal_retained: 50GB}}\n", ""), 17),
    "PR207": (("  - {id: follow", "  - {id: again, uses: snapshot}\n  - {id: follow"), 17),
    "PR208": (("vars:\n", "vars:\n  idle: {default: x}\n"), 5),
    "PR210": ((", with: {max_wal_retained: 50GB}", ""), 17),
    "PR211": (("uses: enable_logical", "uses: enable_logical, with: {reboot: allow}"), 14),
    "PR212": (("{reverse: true}", "{reverse: true, verify: counts, max_load: 3}"), 18),
}  # fmt: skip


def given(**environ: str) -> Given:
    return Given(variables={}, var_files=(), environ=environ)


@pytest.fixture
def linted(tmp_path: Path) -> Callable[..., list[tuple[str, int, str | None]]]:
    def lint(*changes: tuple[str, str], **environ: str) -> list[tuple[str, int, str | None]]:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        return [
            (f.problem.code, f.problem.line, f.disabled) for f in inspect(path, given(**environ)).findings
        ]

    return lint


def test_a_good_plan_is_good(linted: Any) -> None:
    assert linted() == []


@pytest.mark.parametrize("code", sorted(REGRETTABLE))
def test_what_is_likely_to_be_regretted_is_told_once(code: str, linted: Any) -> None:
    change, line = REGRETTABLE[code]

    assert linted(change) == [(code, line, None)]


def test_every_rule_of_practice_has_a_case() -> None:
    practice = {code for code in rules() if code.startswith("PR2")}

    assert practice == {*REGRETTABLE, "PR209"}


def test_a_variable_of_the_environment_that_nobody_declares_is_told(linted: Any) -> None:
    assert linted(PLANRUNNER_VAR_host="h", PLANRUNNER_VAR_hots="h") == [("PR209", 4, None)]


def test_a_variable_that_another_plan_declares_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(
        GOOD.replace("host: {default", "hots: {default").replace("vars.host", "vars.hots")
    )
    environ = {"PLANRUNNER_VAR_host": "h", "PLANRUNNER_VAR_other": "h"}
    found = together([inspect(tmp_path / name, given(**environ)) for name in ("a.yaml", "b.yaml")])

    assert [f.problem.message.split()[0] for i in found for f in i.findings] == ["PLANRUNNER_VAR_other"] * 2


def test_a_server_on_this_machine_needs_no_certificate(linted: Any) -> None:
    assert linted(("host=new.example.com dbname=app", "host=localhost sslmode=disable dbname=app")) == []


@pytest.mark.parametrize(
    "comment",
    [
        "  # planrunner: disable=PR202 -- we go back by a backup\n  - {id: cutover",
        "  # planrunner: disable=PR202,PR202 -- we go back by a backup\n\n  # more\n  - {id: cutover",
    ],
)
def test_a_comment_above_with_a_reason_disables(comment: str, linted: Any) -> None:
    found = linted(REGRETTABLE["PR202"][0], ("  - {id: cutover", comment))

    assert {(code, reason) for code, _, reason in found} == {("PR202", "we go back by a backup")}


def test_a_comment_on_the_line_disables(linted: Any) -> None:
    line = "approval: manual}"
    found = linted(REGRETTABLE["PR202"][0], (line, f"{line} # planrunner: disable=PR202 -- by a backup"))

    assert found == [("PR202", 18, "by a backup")]


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("# planrunner: disable=PR202", "PR301"),
        ("# planrunner: disable=PR202 --  ", "PR301"),
        ("# planrunner: disable=PR202 -- nothing is found here", "PR302"),
        ("# planrunner: disable=PR999 -- there is no such rule", "PR303"),
        ("# planrunner: disable=PR010 -- an error", "PR303"),
        ("# planrunner: disable -- all of it", "PR303"),
        ("# planrunner: ignore=PR202 -- another word", "PR303"),
    ],
)
def test_a_comment_that_disables_nothing_is_told(comment: str, code: str, linted: Any) -> None:
    assert linted(("steps:\n", f"{comment}\nsteps:\n")) == [(code, 13, None)]


def test_a_hash_inside_a_text_is_no_comment(linted: Any) -> None:
    text = 'metadata: {name: orders, description: "x # planrunner: disable=PR202"}'

    assert linted(("metadata: {name: orders}", text)) == []


def test_severities_decide_the_exit_code(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    for change, code, strict in (("PR202", 0, 0), ("PR201", 0, 2)):
        path.write_text(GOOD.replace(*REGRETTABLE[change][0]))
        assert cli("lint", "plan.yaml").returncode == code
        assert cli("lint", "plan.yaml", "--strict").returncode == strict
    path.write_text(GOOD.replace("uses: sync", "uses: snyc"))
    assert cli("lint", "plan.yaml").returncode == 2


def test_folders_patterns_and_several_files_are_linted(cli: Any, tmp_path: Path) -> None:
    for name in ("plans/a.yaml", "plans/sub/b.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "plans/values.yaml").write_text("host: x\n")
    (tmp_path / "plans/.hidden.yaml").write_text("kind: MigrationPlan\n")

    def paths(*named: str) -> list[str]:
        return [file["path"] for file in json.loads(cli("lint", *named, "--format", "json").stdout)["files"]]

    assert paths("plans") == ["plans/a.yaml", "plans/sub/b.yml"]
    assert paths("plans/**/*.y*ml", "plans/a.yaml")[0] == "plans/a.yaml"
    assert paths("plans/?.yaml") == ["plans/a.yaml"]
    assert cli("lint", "nothing/*.yaml").returncode == 2
    (tmp_path / "empty").mkdir()
    assert "no plan" in cli("lint", "empty").stderr


def test_files_that_can_not_be_read_are_told_beside_the_others(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD)
    ended = cli("lint", "missing.yaml", "plan.yaml", "--format", "json")

    told = json.loads(ended.stdout)
    assert ended.returncode == 2
    assert [(p["path"], p["code"]) for p in told["problems"]] == [("missing.yaml", "PR001")]
    assert [file["ok"] for file in told["files"]] == [False, True]


def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        # Root may read everything.
        os.seteuid(65534)
    try:
        (finding,) = inspect(path, given()).findings
    finally:
        if root:
            os.seteuid(0)

    assert "Permission denied" in finding.problem.message


def test_a_folder_in_place_of_a_variable_file_is_told(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD)
    ended = cli("lint", "plan.yaml", "--var-file", ".")

    assert ended.returncode == 2
    assert "Is a directory" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_stdin_is_linted(tmp_path: Path, cli: Any) -> None:
    (found,) = (inspect(Path("stdin"), given(), text=GOOD.replace("sync", "snyc", 1).encode()).findings,)

    assert {finding.problem.path for finding in found} == {"stdin"}
    assert "stdin:1:1" in cli("lint", "-").stdout


def test_json_tells_errors_as_problems_and_all_as_findings(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD.replace(*REGRETTABLE["PR201"][0]))
    told = json.loads(cli("lint", "plan.yaml", "--output", "json").stdout)

    assert told["ok"] is True
    assert told["problems"] == []
    assert [(f["code"], f["severity"], f["line"], f["disabled"]) for f in told["findings"]] == [
        ("PR201", "warning", 18, False)
    ]


@pytest.mark.parametrize("style", ["text", "json", "sarif", "github"])
def test_what_is_sensitive_in_one_plan_is_masked_in_the_findings_of_another(
    style: str, cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(GOOD.replace("vars:\n", "vars:\n  key: {sensitive: true}\n"))
    (tmp_path / "other.yaml").write_text(GOOD)
    (tmp_path / "values.yaml").write_text('{"key": "open \\"sesame\\" now"}\n')

    for names in (("plan.yaml", "other.yaml"), ("other.yaml", "plan.yaml")):
        told = cli("lint", *names, "--var-file", "values.yaml", "--format", style)
        assert told.returncode == 2
        assert "sesame" not in told.stdout + told.stderr


def test_annotations_are_workflow_commands(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        GOOD.replace("max_wal_retained: 50GB", "max_wal_retained: 50%\n,x: 1")
    )
    lines = cli("lint", "plan.yaml", "--format", "github").stdout.splitlines()

    assert lines
    for line in lines:
        assert line.startswith("::error file=plan.yaml,line=1")
        assert "title=PR0" in line
    assert '"50%25"' in lines[0]


def test_sarif_has_the_shape_that_code_scanning_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace(*REGRETTABLE["PR202"][0]).replace(
        "approval: manual}", "approval: manual} # planrunner: disable=PR202 -- by a backup"
    )
    Path("a b.yaml").write_text(text)
    Path("broken.yaml").write_text(GOOD.replace("uses: sync", "uses: snyc"))
    found = [inspect(Path(name), given()) for name in ("a b.yaml", "broken.yaml")]

    log = json.loads(to_sarif(found))
    (run,) = log["runs"]
    driver = run["tool"]["driver"]

    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    assert [rule["id"] for rule in driver["rules"]] == list(rules())
    assert {rule["defaultConfiguration"]["level"] for rule in driver["rules"]} == {"error", "warning", "note"}
    assert len(run["results"]) == 2
    for result in run["results"]:
        place = result["locations"][0]["physicalLocation"]
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]
        assert place["region"]["startLine"] >= 1
        assert place["region"]["startColumn"] >= 1
    suppressed, told = run["results"]
    assert suppressed["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.yaml"
    assert suppressed["suppressions"] == [{"kind": "inSource", "justification": "by a backup"}]
    assert "suppressions" not in told


def test_every_code_of_a_broken_plan_is_a_rule() -> None:
    used = set()
    broken = [
        *(ROOT / "tests/data/invalid").glob("*.yaml"),
        *(ROOT / "tests/data/invalid_overlays").glob("*.yaml"),
    ]
    for path in sorted(broken):
        found = inspect(path, given()).findings
        used |= {f.problem.code for f in found if f.severity is Severity.ERROR}

    # What stands only in comments, or in the files of fleets, has tests of its own.
    assert used == {code for code in rules() if code < "PR2"} - {codes.FLEET}


def test_the_page_of_the_rules_is_up_to_date() -> None:
    assert (ROOT / PATH).read_text("utf-8") == page(), "run: make docs"


def test_the_example_plans_have_no_warnings(cli: Any) -> None:
    ended = cli("lint", str(ROOT / "plans"), "--strict")

    assert ended.returncode == 0, ended.stdout


def test_a_name_that_no_file_can_have_is_told(cli: Any, tmp_path: Path) -> None:
    name = "9" * 300
    (tmp_path / "overlay.yaml").write_text(f"extends: {name}.yaml\n")
    alone, overlay = cli("lint", name), cli("lint", "overlay.yaml")
    for ended in (alone, overlay):
        assert ended.returncode == 2, ended.stderr
        assert "File name too long" in ended.stdout + ended.stderr
    assert "[error PR028]" in overlay.stdout
