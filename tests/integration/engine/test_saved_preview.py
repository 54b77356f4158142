"""What is kept of a preview, and how a file that is none of ours is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from planrunner.engine import saved_preview
from planrunner.engine.expectation import differences, moved
from planrunner.engine.saved_preview import Saved
from planrunner.errors import PlanrunnerError, StateUnfit, UsageError

SEEN = {
    "version": "16.14",
    "system_identifier": "1",
    "database": "shop",
    "user": "migrator",
    "in_recovery": False,
    "parameters": {"wal_level": "logical", "max_replication_slots": "10"},
    "catalogue": "a",
    "tables": {"public.orders": "1", "public.items": "2"},
    "others": ["sequence public.no"],
}


def action(name: str = "copy", **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "summary": f"{name} it, 3 GB",
        "verdict": "do",
        "where": "target",
        "statements": ["COPY t FROM STDIN  -- 3 GB", "SELECT f('0/16B3748')"],
        "locks": ["none"],
        "needs": ["nothing beyond a session"],
        "undo": "TRUNCATE, by hand",
        "asks": None,
        "blocked": None,
        "restarts": False,
        "observable": True,
        "recovery": False,
        **given,
    }


def step(*actions: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {
        "id": "copy",
        "status": "pending",
        "begun": False,
        "problem": None,
        "findings": [],
        "actions": list(actions or [action()]),
        **given,
    }


def kept(**given: Any) -> Saved:
    parts: dict[str, Any] = {
        "plan": {"name": "shop", "digest": "d" * 64, "id": "3fa1b2c3"},
        "state": None,
        "offline": False,
        "seen": {"source": SEEN, "target": {**SEEN, "system_identifier": "2"}, "rds": None},
        "steps": (step(),),
    }
    return Saved(**(parts | given))


def source(**given: Any) -> dict[str, Any]:
    return {"source": {**SEEN, "catalogue": "b", **given}, "target": kept().seen["target"], "rds": None}


def test_the_same_world_has_no_difference() -> None:
    assert list(differences(kept(), kept())) == []


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"plan": {"name": "shop", "digest": "e" * 64, "id": "3fa1b2c3"}}, "the plan was edited"),
        ({"plan": {"name": "shop", "digest": "d" * 64, "id": "99999999"}}, "the plan id was 3fa1b2c3"),
        ({"seen": source(version="16.15")}, "source version was 16.14, it is 16.15"),
        (
            {"seen": source(parameters={**SEEN["parameters"], "wal_level": "replica"})},  # type: ignore[dict-item]
            "source: parameter wal_level was logical, it is replica",
        ),
        ({"seen": source(tables={**SEEN["tables"], "public.new": "3"})}, "source: table public.new is new"),  # type: ignore[dict-item]
        ({"seen": source(tables={"public.orders": "1"})}, "source: table public.items is gone"),
        (
            {"seen": source(tables={"public.orders": "9", "public.items": "2"})},
            "source: table public.orders has changed",
        ),
        ({"seen": source(others=[])}, "source: sequence public.no is gone"),
        ({"steps": (step(action(), action("analyze")),)}, "step copy: an action more: analyze it"),
        ({"steps": (step(action("other")),)}, "step copy: an action less: copy it"),
        ({"steps": (step(action(statements=["COPY u FROM STDIN"])),)}, "a statement more: COPY u FROM STDIN"),
        ({"steps": (step(action(blocked="no room")),)}, "blocked was not there, it is no room"),
        ({"steps": (step(problem="it can't\nbe"),)}, "step copy can't be planned: it can't"),
        (
            {
                "steps": (
                    step(findings=[{"text": "2 slots are lost", "mark": "fail", "mended_by_step": None}]),
                )
            },
            "check fails: … slots are lost",
        ),
    ],
)
def test_each_change_is_told_in_words(now: dict[str, Any], told: str) -> None:
    found = list(differences(kept(), kept(**now)))
    assert any(told in line for line in found), found


def test_sizes_places_in_the_wal_and_instants_do_not_count() -> None:
    before = kept(steps=(step(action(statements=["SELECT w('2026-01-01 00:00:00+00')", "COPY t  -- 3 GB"])),))
    grown = action(
        summary="copy it, 4 GB", statements=["SELECT w('2026-01-02 10:00:00.5+00')", "COPY t  -- 4 GB"]
    )
    assert list(differences(before, kept(steps=(step(grown),)))) == []


def test_of_a_step_that_was_begun_since_only_what_is_more_counts() -> None:
    before = kept(steps=(step(action("a"), action("b")), step(action("c"), id="next")))
    state = {"lineage": "l", "serial": 4}
    half = step(action("b", statements=["the rest"]), begun=True)
    now = kept(state=state, steps=(half, step(action("c"), id="next")))
    assert moved(before, now)
    assert list(differences(before, now)) == []
    later = step(action("c"), action("d"), id="next")
    found = list(differences(before, kept(state=state, steps=(half, later))))
    assert found == ["step next: an action more: d it, 3 GB"]
    mended = step(action("c"), action("d", recovery=True), id="next")
    assert list(differences(before, kept(state=state, steps=(half, mended)))) == []


def test_what_a_run_changes_itself_does_not_count_once_it_has_begun() -> None:
    done = step(status="done", actions=[])
    now = kept(state={"lineage": "l", "serial": 1}, steps=(done,), seen=source(parameters={"wal_level": "x"}))
    assert list(differences(kept(), now)) == []


def test_a_preview_is_read_back_as_it_was_written(tmp_path: Path, bench: Any) -> None:
    from tests.integration.engine.test_preview import previewed

    preview = previewed(bench, bench.touch("one", "a"))
    plan = bench.setup(bench.touch("one", "a")).plan
    written = saved_preview.saved(preview, plan, None, {"source": SEEN, "target": SEEN, "rds": None})
    path = tmp_path / "preview.json"
    path.write_text(saved_preview.to_json(written, preview))
    assert list(differences(written, saved_preview.read(path))) == []


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("", UsageError, "it is not JSON"),
        ("[1]", UsageError, "is no saved preview"),
        ('{"plan": "shop"}', UsageError, "is no saved preview"),
        ('{"kind": "planrunner preview"}', UsageError, "damaged: its format_version is no version"),
        ('{"kind": "planrunner preview", "format_version": 2}', StateUnfit, "format version 2"),
        ('{"kind": "planrunner preview", "format_version": 1}', UsageError, "damaged: plan is missing"),
        (
            '{"kind": "planrunner preview", "format_version": true}',
            UsageError,
            "damaged: its format_version is no version",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(
    tmp_path: Path, text: str, error: type[PlanrunnerError], told: str
) -> None:
    path = tmp_path / "preview.json"
    path.write_text(text)
    with pytest.raises(error, match=re.escape(told)) as refused:
        saved_preview.read(path)
    assert refused.value.remedy
    assert refused.value.exit_code in {2, 6}


@pytest.mark.parametrize("key", ["plan", "seen", "steps", "offline", "state"])
def test_a_document_that_lacks_a_part_is_damaged(tmp_path: Path, key: str) -> None:
    whole = {"kind": "planrunner preview", "format_version": 1, **vars(kept())}
    path = tmp_path / "preview.json"
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
    with pytest.raises(UsageError, match=f"{key} is missing"):
        saved_preview.read(path)


def test_a_preview_made_offline_is_nothing_to_compare_with(tmp_path: Path) -> None:
    tree = {"kind": "planrunner preview", "format_version": 1, **vars(kept(offline=True))}
    path = tmp_path / "preview.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(UsageError, match="was made offline"):
        saved_preview.read(path)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the preview"):
        saved_preview.read(tmp_path / "none.json")
