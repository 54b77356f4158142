"""Thousands of odd plans: each is a plan, or it is told what is wrong with it and where, and soon.

PLANRUNNER_FUZZED_PLANS sets how many (`make check`: 500, `make test`: 20,000). The same number makes the same
plans: hypothesis is derandomized.
"""

from __future__ import annotations

import json
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from planrunner.errors import PlanInvalid
from planrunner.loading import load
from planrunner.loading.source import LINE_BREAK, parse
from tests.unit.loading import fuzzed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from planrunner.model import Plan

PLANS = int(os.environ.get("PLANRUNNER_FUZZED_PLANS", "500"))
SECONDS = 2.0
SETTINGS = settings(
    max_examples=PLANS // 5,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SEEDS = st.integers(min_value=0, max_value=2**64 - 1)
SCALARS = st.sampled_from(fuzzed.SCALARS) | st.text(max_size=6) | st.integers()
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(fuzzed.vocabulary()), inner, max_size=5)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan.yaml"


def judge(path: Path, data: bytes) -> None:
    """Hold one file against what is promised; whatever else is raised fails the test by itself."""
    path.write_bytes(data)
    began = time.process_time()
    try:
        plan = load(path)
    except PlanInvalid as error:
        told(error, data, path)
    else:
        steady(plan, path, data)
    assert time.process_time() - began < SECONDS


def told(error: PlanInvalid, data: bytes, path: Path) -> None:
    lines = LINE_BREAK.split(data.decode("utf-8", "replace").removeprefix("\ufeff"))
    assert error.problems
    for problem in error.problems:
        assert problem.path == str(path)
        assert problem.code.startswith("PR")
        assert problem.message
        assert 1 <= problem.line <= len(lines), problem
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
    assert str(error)


def steady(plan: Plan, path: Path, data: bytes) -> None:
    """A plan that loads loads again to the same, and however its keys are ordered."""
    assert load(path) == plan
    tree = parse(str(path), data.decode("utf-8-sig")).tree
    path.write_text(json.dumps(turned(tree), indent=1, ensure_ascii=True), encoding="utf-8")
    assert load(path) == plan


def turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


@SETTINGS
@given(seed=SEEDS)
def test_scribbled_text_is_told(seed: int, path: Path) -> None:
    judge(path, fuzzed.scribbled(random.Random(seed)).encode())


@SETTINGS
@given(seed=SEEDS)
def test_trees_grown_from_the_schema_load_or_are_told(seed: int, path: Path) -> None:
    chance = random.Random(seed)
    judge(path, fuzzed.written(chance, fuzzed.grown(chance)).encode("utf-8", "surrogatepass"))


@SETTINGS
@given(tree=TREES, key=st.sampled_from(("", "vars", "metadata", "connections", "steps", "step", "with")))
def test_odd_values_in_a_good_plan_load_or_are_told(tree: Any, key: str, path: Path) -> None:
    plan = json.loads(fuzzed.tree_of(fuzzed.VALID[-1]))
    match key:
        case "":
            plan = tree
        case "step":
            plan["steps"][1] = tree
        case "with":
            plan["steps"][1]["with"] = tree
        case _:
            plan[key] = tree
    judge(path, json.dumps(plan, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@SETTINGS
@given(seed=SEEDS)
def test_changed_plans_load_or_are_told(seed: int, path: Path) -> None:
    chance = random.Random(seed)
    judge(path, fuzzed.written(chance, fuzzed.changed(chance)).encode("utf-8", "surrogatepass"))


@SETTINGS
@given(seed=SEEDS)
def test_damaged_bytes_load_or_are_told(seed: int, path: Path) -> None:
    judge(path, fuzzed.damaged(random.Random(seed)))


@pytest.mark.parametrize("make", [fuzzed.grown, fuzzed.changed], ids=["grown", "changed"])
def test_enough_of_the_fuzzed_plans_are_valid(make: Callable[[random.Random], Any], path: Path) -> None:
    """Otherwise nothing but complaints would be tried."""
    loaded = 0
    for seed in range(200):
        chance = random.Random(seed)
        path.write_text(json.dumps(make(chance)), encoding="utf-8")
        try:
            load(path)
        except PlanInvalid:
            continue
        loaded += 1
    assert loaded > 3
