"""Discovers the steps: every module of ``planrunner.steps`` that defines a class with ``uses``."""

from __future__ import annotations

import importlib
import json
import pkgutil
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

import planrunner.steps

if TYPE_CHECKING:
    from planrunner.step import Step


@cache
def step_names() -> tuple[str, ...]:
    """The names that ``uses`` may take, sorted; imports no step."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(planrunner.steps.__path__)))


@cache
def step(uses: str) -> Step:
    """The step of that name; KeyError for a name that ``step_names`` does not list."""
    if uses not in step_names():
        raise KeyError(uses)
    module = importlib.import_module(f"planrunner.steps.{uses}")
    classes = (c for c in vars(module).values() if isinstance(c, type) and getattr(c, "uses", "") == uses)
    return cast("Step", next(classes)())


@cache
def fragment(uses: str) -> dict[str, Any]:
    """The JSON Schema of a step's ``with``, as it lies beside the step's module."""
    text = resources.files("planrunner.steps").joinpath(f"{uses}.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))
