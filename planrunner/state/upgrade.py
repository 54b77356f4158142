"""Lifts the tree of an older state file to the format of now, one version at a time."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from planrunner.state.record import FORMAT_VERSION, StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` in format ``FORMAT_VERSION``; the versions before it are each lifted by one function."""
    while (version := tree["format_version"]) < FORMAT_VERSION:
        tree = {**_LIFTS[version](tree), "format_version": version + 1}
    return tree


def _from_1(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2 knows marks, and the values of a step's fields."""
    steps = {step_id: {**_new_fields(), **step} for step_id, step in tree["steps"].items()}
    return {**tree, "marks": [], "steps": steps}


def _new_fields() -> dict[str, Any]:
    # What a step has had since version 1 and is missing is damage, and must stay missing.
    first = {
        "uses", "status", "digest", "parts", "started", "resumed", "finished", "worked", "attempts",
        "progress", "error", "touched", "intent", "performed",
    }  # fmt: skip
    return {
        f.name: f.default_factory() if f.default_factory is not MISSING else f.default
        for f in fields(StepState)
        if f.name not in first
    }


def _from_2(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Version 3 has a checksum, which is no part of what is read."""
    return dict(tree)


# The version that is lifted → what lifts it to the next. Each has a file in tests/data/state.
_LIFTS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}
