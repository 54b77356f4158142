"""Which steps surely run before which."""

from __future__ import annotations

from typing import Any

from planrunner.loading.document import Document, Spot
from planrunner.loading.order import ancestors, misplaced


def step(name: str, uses: str = "grant", **more: Any) -> dict[str, Any]:
    return {"id": name, "uses": uses, **more}


def faults(*steps: dict[str, Any]) -> list[str]:
    tree: Any = {"steps": list(steps)}
    values = {("steps", index): Spot(line=index + 1) for index in range(len(steps))}
    document = Document(path="p", tree=tree, lines=(), values=values, names={})
    return [f"{problem.where}: {problem.code}" for problem in misplaced(document, tree)]


def test_steps_run_one_after_the_other_by_themselves() -> None:
    assert ancestors([step("a"), step("b"), step("c")]) == (frozenset(), {0}, {0, 1})


def test_needs_replaces_the_order_of_the_file() -> None:
    steps = [step("a", needs=["c"]), step("b", needs=[]), step("c", needs=["b"])]

    assert ancestors(steps) == ({1, 2}, frozenset(), {1})


def test_a_circle_of_needs_ends() -> None:
    assert ancestors([step("a", needs=["b"]), step("b", needs=["a", "nobody", 3])]) == ({1}, {0})


def test_what_builds_on_another_step_comes_after_it() -> None:
    copy, follow, cutover = step("c", "snapshot"), step("f", "sync"), step("x", "cutover_verify")

    assert faults(copy, follow, cutover) == []
    assert faults(follow, copy) == ["steps[0].uses: PR026"]
    assert faults(copy, cutover, follow) == ["steps[1].uses: PR026"]


def test_needs_decide_what_comes_after() -> None:
    follow, copy = step("f", "sync", needs=["c"]), step("c", "snapshot", needs=[])

    assert faults(follow, copy) == []


def test_a_rehearsal_comes_before_the_cutover() -> None:
    trial, cutover = step("t", "cutover_verify", **{"with": {"rehearse": True}}), step("x", "cutover_verify")

    assert faults(trial, cutover) == []
    assert faults(cutover, trial) == ["steps[1].with.rehearse: PR026"]
