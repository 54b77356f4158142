"""Every broken plan of ``tests/data/invalid`` and exactly what is said about it."""

import re
from pathlib import Path

import pytest

from planrunner.errors import PlanInvalid
from planrunner.loading import load

FOLDER = Path(__file__).parents[2] / "data" / "invalid"
PLANS = sorted(FOLDER.glob("*.yaml"))


def options(path: Path) -> dict[str, str]:
    """The ``# --var NAME=VALUE`` lines at a plan's head."""
    return dict(re.findall(r"^# --var (\w+)=(.*)$", path.read_text("utf-8", "replace"), re.MULTILINE))


def complaint(name: str) -> PlanInvalid:
    with pytest.raises(PlanInvalid) as caught:
        load(Path(name), variables=options(FOLDER / name))
    return caught.value


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_broken_plan_is_told_exactly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)

    assert f"{complaint(path.name)}\n" == path.with_suffix(".txt").read_text("utf-8")


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_no_complaint_shows_a_password(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)

    assert "hunter" not in str(complaint(path.name))


def test_problems_stand_in_source_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)

    problems = complaint("everything_at_once.yaml").problems

    assert len(problems) > 20
    assert [(p.line, p.column) for p in problems] == sorted((p.line, p.column) for p in problems)


def test_there_are_many_broken_plans_and_no_orphans() -> None:
    assert len(PLANS) >= 290
    assert {p.stem for p in FOLDER.glob("*.txt")} == {p.stem for p in PLANS}
