"""Plans with ``extends``: what an overlay makes of its base, and where its problems stand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from planrunner.errors import PlanInvalid
from planrunner.loading import load
from planrunner.loading.overlays import assembled, layers
from planrunner.loading.schema import plan_schema
from planrunner.model import Plan, SecretKind

WritePlan: TypeAlias = Callable[..., Path]

FOLDER = Path(__file__).parents[2] / "data" / "invalid_overlays"
OVERLAYS = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture
def overlaid(write_plan: WritePlan, tmp_path: Path) -> Callable[[str], Path]:
    """Write an overlay of the small plan, which is plan.yaml beside it."""
    write_plan()

    def write(text: str) -> Path:
        path = tmp_path / "plan.prod.yaml"
        path.write_text(f"extends: plan.yaml\n{text}", encoding="utf-8")
        return path

    return write


def ids(plan: Plan) -> list[str]:
    return [step.id for step in plan.steps]


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_broken_overlay_is_told_exactly_and_where_it_stands(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)

    with pytest.raises(PlanInvalid) as caught:
        load(Path(path.name))

    assert f"{caught.value}\n" == path.with_suffix(".txt").read_text("utf-8")
    assert "hunter" not in str(caught.value)


def test_every_broken_overlay_has_its_message_and_no_message_is_an_orphan() -> None:
    assert len(OVERLAYS) >= 40
    assert {p.stem for p in FOLDER.glob("*.txt")} == {p.stem for p in OVERLAYS}


def test_an_overlay_that_says_nothing_is_its_base(overlaid: Callable[[str], Path], tmp_path: Path) -> None:
    overlay, base = load(overlaid("")), load(tmp_path / "plan.yaml")

    assert replace(overlay, path=base.path) == base
    assert overlay.path.name == "plan.prod.yaml"


def test_mappings_merge_key_by_key(overlaid: Callable[[str], Path]) -> None:
    plan = load(
        overlaid(
            "vars: {host: {default: prod.example.com}}\n"
            "connections: {target: {source_as_seen_from_target: {host: 10.0.0.1}}}\n"
            "steps:\n"
            "  - {id: copy, with: {index_jobs: 2}}\n"
            "  - {id: check, approval: manual, description: ask first}\n"
        )
    )

    assert plan.source.dsn == "postgresql://migrator@prod.example.com:5432/app"
    assert plan.target.dsn == "host=new.example.com dbname=app user=migrator"
    assert plan.source.seen_from_other is not None
    assert plan.source.seen_from_other.host == "10.0.0.1"
    assert plan.steps[1].options == {"jobs": 8, "index_jobs": 2}
    assert [step.approval.value for step in plan.steps] == ["manual", "auto", "manual"]


def test_keys_that_steps_will_have_merge_like_those_they_have(
    overlaid: Callable[[str], Path], write_plan: Any
) -> None:
    write_plan(("with: {jobs: 8}", "with: {jobs: 8}, retries: {max: 2, wait: 5s}, needs: [check]"))

    tree: Any = assembled(overlaid("steps: [{id: copy, retries: {max: 9}, needs: []}]\n")).tree

    assert tree["steps"][1]["retries"] == {"max": 9, "wait": "5s"}
    assert tree["steps"][1]["needs"] == []


def test_a_password_reference_is_replaced_whole(overlaid: Callable[[str], Path], tmp_path: Path) -> None:
    plan = load(
        overlaid(
            "connections:\n  source: {password: {secret: {aws_ssm: /prod/a, key: b}}}\n"
            "  target: {dsn: 'postgresql://a@new.example.com/app', password: {rds_iam: true}}\n"
        )
    )

    assert plan.source.password is not None
    assert (plan.source.password.kind, plan.source.password.locator) == (SecretKind.AWS_SSM, "/prod/a")
    assert plan.target.rds_iam
    assert plan.target.password is None


@pytest.mark.parametrize(
    ("steps", "order"),
    [
        ("{id: follow, uses: sync, after: copy}", ["check", "copy", "follow", "cutover"]),
        ("{id: follow, uses: grant, before: check}", ["follow", "check", "copy", "cutover"]),
        (
            "{id: a, uses: sync, after: copy}, {id: b, uses: sync, after: copy}",
            ["check", "copy", "a", "b", "cutover"],
        ),
        (
            "{id: a, uses: grant, before: copy}, {id: b, uses: grant, before: copy}",
            ["check", "a", "b", "copy", "cutover"],
        ),
        (
            "{id: a, uses: sync, after: copy}, {id: b, uses: sync, before: a}",
            ["check", "copy", "b", "a", "cutover"],
        ),
        ("{id: check, remove: true}", ["copy", "cutover"]),
        ("{id: copy, remove: true}, {id: new, uses: snapshot, after: copy}", ["check", "new", "cutover"]),
    ],
)
def test_steps_are_added_where_they_say_and_removed(
    steps: str, order: list[str], overlaid: Callable[[str], Path]
) -> None:
    assert ids(load(overlaid(f"steps: [{steps}]\n"))) == order


def test_overlays_of_overlays(overlaid: Callable[[str], Path], tmp_path: Path) -> None:
    middle = overlaid("vars: {host: {default: middle}}\nsteps: [{id: follow, uses: sync, after: copy}]\n")
    top = tmp_path / "plan.eu.yaml"
    top.write_text(
        f"extends: {middle.name}\nvars: {{port: {{default: 6432}}}}\n"
        "steps:\n  - {id: follow, approval: manual}\n  - {id: warm, uses: grant, before: follow}\n"
    )

    plan = load(top)

    assert plan.source.dsn == "postgresql://migrator@middle:6432/app"
    assert ids(plan) == ["check", "copy", "warm", "follow", "cutover"]
    assert plan.steps[3].approval.value == "manual"
    assert [path.name for path in layers(top)] == ["plan.eu.yaml", "plan.prod.yaml", "plan.yaml"]


def test_problems_of_three_files_name_each_its_own(overlaid: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "plan.yaml"
    base.write_text(base.read_text().replace("jobs: 8", "jobs: a"))
    middle = overlaid("steps:\n  - {id: cutover, with: {write_pause_budget: b}}\n")
    top = tmp_path / "plan.eu.yaml"
    top.write_text(f"extends: {middle.name}\nvars: {{port: {{default: c}}}}\n")

    with pytest.raises(PlanInvalid) as caught:
        load(top)

    found = {(Path(p.path).name, p.line, p.where) for p in caught.value.problems}
    assert found == {
        ("plan.yaml", 16, "steps[1].with.jobs"),
        ("plan.prod.yaml", 3, "steps[0].with.write_pause_budget"),
        ("plan.eu.yaml", 2, "vars.port.default"),
    }
    assert all(p.excerpt and p.excerpt[p.column - 1] in "abc" for p in caught.value.problems)


def test_files_are_looked_for_beside_the_plan_that_names_them(tmp_path: Path, write_plan: WritePlan) -> None:
    (tmp_path / "base").mkdir()
    write_plan(("{env: SOURCE_PASSWORD}", "{env: A}")).rename(tmp_path / "base" / "plan.yaml")
    top = tmp_path / "top.yaml"
    top.write_text(
        "extends: base/plan.yaml\nconnections: {source: {password: {secret: {file: ./own.password}}}}\n"
    )

    plan = load(top)

    assert plan.target.password is not None
    assert plan.source.password is not None
    assert plan.target.password.locator == str((tmp_path / "base" / "target.password").resolve())
    assert plan.source.password.locator == str((tmp_path / "own.password").resolve())


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path, write_plan: WritePlan) -> None:
    write_plan()
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "base.yaml").symlink_to(tmp_path / "plan.yaml")
    (inner / "top.yaml").write_text("extends: base.yaml\n")

    with pytest.raises(PlanInvalid, match="not in the overlay's folder"):
        load(inner / "top.yaml")


def test_the_digest_is_the_effective_plans(overlaid: Callable[[str], Path], tmp_path: Path) -> None:
    same, base = load(overlaid("vars: {host: {default: old.example.com}}\n")), load(tmp_path / "plan.yaml")

    assert same.digest == base.digest
    assert load(overlaid("vars: {host: {default: other}}\n")).digest != base.digest


@pytest.mark.parametrize("dialect", [Draft7Validator, Draft202012Validator])
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("extends: a.yaml", True),
        ("extends: a.yaml\nconnections: {source: {rds: {region: eu-west-1}}}", True),
        ("extends: a.yaml\nsteps: [{id: copy, with: {jobs: 4}}, {id: x, remove: true}]", True),
        ("extends: a.yaml\nsteps: [{id: copy, uses: sync, after: x, with: {max_lag: 1MB}}]", True),
        ("extends: a.yaml\nsteps: [{with: {jobs: 4}}]", False),
        ("extends: a.yaml\nsteps: [{id: copy, uses: snapshot, with: {jbos: 4}}]", False),
        ("extends: a.yaml\nsteps: [{id: copy, remove: false}]", False),
        ("extends: a.yaml\nstages: []", False),
        ("extends: ''", False),
        ("extends: a.yaml\nconnections: {source: {password: {}}}", False),
        ("connections: {source: {dsn: a}}", False),
        ("{}", False),
    ],
)
def test_the_editors_schema_knows_overlays(dialect: Any, text: str, fits: bool) -> None:
    assert dialect(plan_schema()).is_valid(yaml.safe_load(text)) is fits


def test_a_misspelt_key_of_an_overlay_gives_editors_one_message() -> None:
    tree = yaml.safe_load("extends: a.yaml\nsteps: [{id: copy, uses: snapshot, with: {jbos: 4}}]")

    (error,) = Draft7Validator(plan_schema()).iter_errors(tree)

    assert "jbos" in error.message


def test_a_whole_plan_has_no_keys_of_overlays(write_plan: WritePlan) -> None:
    tree = yaml.safe_load(write_plan().read_text())
    tree["steps"][0]["remove"] = True

    assert list(Draft7Validator(plan_schema()).iter_errors(tree))
