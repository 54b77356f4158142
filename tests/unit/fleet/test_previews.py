"""The sums over the previews of members, from trees as ``planrunner preview --output json`` writes them."""

from __future__ import annotations

from typing import Any

from planrunner.engine import markdown_safe
from planrunner.fleet.previews import MemberPreview, destroyed, sums
from planrunner.fleet.previews_text import below, rows, to_markdown

SIZES = {"tables": 2, "rows": 10, "heap_bytes": 1000, "toast_bytes": 20, "index_bytes": 4}


def action(summary: str, *, restarts: bool = False, destructive: bool = False) -> dict[str, Any]:
    return {"summary": summary, "restarts": restarts, "destructive": destructive}


def step(uses: str, *actions: Any, **more: Any) -> dict[str, Any]:
    empty = {"problem": None, "findings": [], "estimates": []}
    return {"id": uses, "uses": uses, "actions": list(actions), **empty, **more}


def estimates(**figures: int | None) -> list[dict[str, Any]]:
    return [{"name": name, "low": low} for name, low in figures.items()]


def member(name: str, *steps: Any, server: str = "a", wave: str = "one", failures: int = 0) -> MemberPreview:
    return MemberPreview(
        name=name, wave=wave, server=server, tree={"steps": list(steps), "failures": failures}
    )


REBOOT = step("enable_logical", action("reboot", restarts=True))
COPY = step("snapshot", action("copy"), estimates=estimates(**SIZES))
DROP = step("cleanup", action("drop the slot", destructive=True))


def test_a_server_that_several_members_share_restarts_once() -> None:
    found = sums([member("x", REBOOT), member("y", REBOOT), member("z", REBOOT, server="b")])

    assert found.restarts == ("a", "b")
    assert found.actions == 3


def test_sizes_and_what_is_destroyed_are_summed() -> None:
    previews = [member("x", COPY, DROP), member("y", COPY, DROP)]
    found = sums(previews)

    assert (found.tables, found.rows, found.bytes, found.unknown) == (4, 20, 2048, 0)
    assert (found.destructive, destroyed(previews)) == (2, {"drop the slot": 2})


def test_a_size_that_nobody_told_is_not_nought() -> None:
    unmeasured = member("x", step("snapshot", action("copy"), estimates=estimates(**{**SIZES, "rows": None})))
    unplanned = member("y", step("snapshot", problem="no key"))
    finished = member("z", step("snapshot"))

    assert [one.figure("rows") for one in (unmeasured, unplanned, finished)] == [None, None, 0]
    assert sums([unplanned, finished]).unknown == 1


def test_who_could_not_be_looked_at_is_told() -> None:
    away = MemberPreview(name="away", wave="two", error="source: no answer\nLook there.")
    failing = member(
        "x",
        step(
            "validate",
            findings=[
                {"mark": "fail", "ignored": False, "mended_by_step": None, "text": "wal_level is replica"},
                {"mark": "fail", "ignored": False, "mended_by_step": "logical", "text": "mended"},
                {"mark": "fail", "ignored": True, "mended_by_step": None, "text": "lived with"},
            ],
        ),
        failures=1,
    )
    found = sums([away, failing])

    assert (found.errors, found.failures, found.changed) == (1, 1, 0)
    assert "away: source: no answer" in below([away, failing])
    assert "x: validate: wal_level is replica" in below([away, failing])
    assert rows([away, failing])[0][-1] == "source: no answer"


def test_each_wave_has_its_sum_and_the_whole_its_own() -> None:
    lines = rows([member("x", COPY), member("y", COPY, wave="two")])

    assert [line[:2] for line in lines] == [
        ("x", "one"),
        ("y", "two"),
        ("", "one"),
        ("", "two"),
        ("all", ""),
    ]


def test_names_are_no_markup_in_a_pull_request() -> None:
    text = to_markdown("shops", [member("a|b", COPY)], markdown_safe.text)

    assert "a&#124;b" in text
    assert "2 tables" in text
