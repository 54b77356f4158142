"""Every check that findings are made of, by its code: found as constants of the modules that make them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.model import Mark
from planrunner.postgres.preflight_section import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HOMES = (
    "planrunner.postgres",
    "planrunner.replication",
    "planrunner.switching",
    "planrunner.aws",
    "planrunner.steps",
)
_MARKS = {"passed": Mark.PASS, "warned": Mark.WARN, "failed": Mark.FAIL}
_EITHER = frozenset({Mark.WARN, Mark.FAIL})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One check as it lies in ``module`` under ``name``.

    ``marks`` are what its findings may be beside passed, ``fixes`` tells whether one may carry a fix: both are read
    from the code, and both are "perhaps" where the constant is handed on before it is used.
    """

    check: Check
    module: str
    name: str
    marks: frozenset[Mark]
    fixes: bool


@cache
def listed() -> tuple[Listed, ...]:
    """All of them, by code; a code that is used twice is there twice."""
    trees = {name: ast.parse(text) for name, text in _sources().items()}
    uses = _uses(trees)
    found = [
        _entry(module, name, uses.get((module, name), _Use()))
        for module, tree in trees.items()
        for name in _constants(tree)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.check.code, entry.module, entry.name)))


def checks() -> Mapping[str, Listed]:
    """The checks by their codes."""
    return {entry.check.code: entry for entry in listed()}


@dataclass
class _Use:
    """How the code uses one constant."""

    marks: frozenset[Mark] = frozenset()
    fixes: bool = False
    handed_on: bool = False


def _entry(module: str, name: str, use: _Use) -> Listed:
    check = getattr(importlib.import_module(module), name)
    assert isinstance(check, Check)
    marks = use.marks - {Mark.PASS}
    told = frozenset(check.can) or (_EITHER if use.handed_on or not marks else marks)
    return Listed(check=check, module=module, name=name, marks=told, fixes=use.fixes)


def _sources() -> dict[str, str]:
    """The text of every module that may hold or use a check."""
    names = [f"{home}.{m.name}" for home in _HOMES for m in pkgutil.iter_modules(_paths(home))]
    texts = {name: _text(name) for name in ("planrunner.ignoring", *names)}
    return {name: text for name, text in texts.items() if "preflight" in text}


def _paths(package: str) -> list[str]:
    return list(importlib.import_module(package).__path__)


def _text(module: str) -> str:
    root = Path(__file__).parent.parent
    return root.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")


def _constants(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "Check"
        ):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _uses(trees: Mapping[str, ast.Module]) -> Mapping[tuple[str, str], _Use]:
    found: dict[tuple[str, str], _Use] = defaultdict(_Use)
    for module, tree in trees.items():
        known = _known(module, tree)
        direct: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                _called(node, node.func, known, found, direct)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in known:
                found[known[node.id]].handed_on |= id(node) not in direct
    return found


def _called(
    call: ast.Call,
    method: ast.Attribute,
    known: Mapping[str, tuple[str, str]],
    found: dict[tuple[str, str], _Use],
    direct: set[int],
) -> None:
    name = method.value
    if isinstance(name, ast.Name) and name.id in known and method.attr in _MARKS:
        use = found[known[name.id]]
        use.marks |= {_MARKS[method.attr]}
        use.fixes |= any(keyword.arg == "fix" for keyword in call.keywords)
        direct.add(id(name))


def _known(module: str, tree: ast.Module) -> dict[str, tuple[str, str]]:
    """What the module's names mean, of those that are or may be checks."""
    known = {name: (module, name) for name in _constants(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return known
