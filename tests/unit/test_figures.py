"""The figures of the fault tests: counted from reports, and put between the marks of the page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from tests.figures import BEGIN, END, ROOT, Figures, page, rows

RUN = {
    "at": "2026-01-02 03:04 UTC",
    "commit": "abc",
    "python": "3.11",
    "servers": ["16.1", "18.1"],
    "cores": 2,
    "soak": False,
}


def report(nodeid: str, when: str = "call", outcome: str = "passed", **told: Any) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=nodeid,
        location=(nodeid, 1, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        user_properties=list(told.items()),
        duration=1.5,
    )


@pytest.fixture
def figures() -> Figures:
    counted = Figures()
    for one in (
        report("tests/faults/test_campaign.py::a[seed-3]", "setup"),
        report("tests/faults/test_campaign.py::a[seed-3]", faults=21, seed=3, acknowledged=500, rate=310.0),
        report(
            "tests/faults/test_campaign.py::a[seed-4]",
            faults=20,
            seed=4,
            acknowledged=400,
            rate=330.0,
            lost=1,
        ),
        report("tests/faults/test_campaign.py::a[seed-9]", "call", "failed", faults=2, seed=9),
        report("tests/faults/test_other.py::b"),
        report("tests/faults/test_other.py::c", "setup", "failed"),
        report("tests/faults/test_other.py::d", "setup", "skipped"),
        report("tests/unit/test_else.py::e"),
    ):
        counted.pytest_runtest_logreport(one)
    return counted


def test_cases_are_counted_by_module_with_what_they_tell_of_themselves(figures: Figures) -> None:
    assert [module.row() for module in figures.modules.values()] == [
        ("test_campaign", "3", "1", "43", "6", "3-4, 9", "900", "320", "1", "0", "0"),
        ("test_other", "1", "1", "1", "3", "", "", "", "", "", ""),
    ]


def test_the_page_holds_the_figures_between_its_marks_and_keeps_the_rest(figures: Figures) -> None:
    kept = {"run": RUN, "modules": [asdict(module) for module in figures.modules.values()]}
    once = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", kept)

    assert once.startswith(
        f"before\n{BEGIN}\nRun at 2026-01-02 03:04 UTC, commit abc, PostgreSQL 16.1 and 18.1"
    )
    assert once.endswith(f"\n{END}\nafter\n")
    assert "old" not in once
    assert "| in all | 4 | 2 | 44 |" in once
    assert page(once, kept) == once
    assert rows(kept)[-1][0] == "in all"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="figures"):
        page("nothing", {"run": RUN, "modules": []})


def test_the_page_that_is_kept_has_its_marks() -> None:
    text = (ROOT / "docs/explanation/reliability.md").read_text("utf-8")

    assert text.index(BEGIN) < text.index(END)
