"""Every check that findings are made of, by its code: found as constants of the modules that make them."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.model import Mark
from planrunner.postgres.preflight_section import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROOT = Path(__file__).parent
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
    found: dict[str, str] = {}
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT.parent).with_suffix("").parts
        text = path.read_text("utf-8")
        if "preflight_section" in text or ("Check(" in text and "sandbox" not in parts):
            found[".".join(parts)] = text
    return found


def _constants(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _makes_one(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _makes_one(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Check"


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
