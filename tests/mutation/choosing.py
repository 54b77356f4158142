"""Which mutants count: those that are another program, one of each place and kind."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import parso
from cosmic_ray import plugins
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from cosmic_ray.work_item import MutationSpec, WorkItem

# The parts of an operator's name that tell with what something is replaced.
_REPLACED_WITH = re.compile(r"(Replace(?:Binary|Comparison|Unary)Operator_[A-Za-z]+?)_\w+")


class RemoveCall(Operator):
    """Leaves out a statement that is a call, which the engine's own operators never do.

    Not those that only say something, nor the points at which faults are planted (tests/faults/test_points.py).
    """

    _KEPT = re.compile(r"\s*(failpoint|(\w+\.)*tell|super)\s*\(")

    def mutation_positions(self, node):  # type: ignore[no-untyped-def]  # the engine's own are not typed
        """The whole statement."""
        if node.type != "simple_stmt" or node.children[0].type != "atom_expr":
            return
        call = node.children[0]
        last = call.children[-1]
        if last.type == "trailer" and last.children[0].value == "(" and not self._KEPT.match(call.get_code()):
            yield call.start_pos, call.end_pos

    def mutate(self, node, index):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """``pass`` in its place."""
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.python.tree.Keyword("pass", node.start_pos, prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """One is enough."""
        return (Example("f()\n", "pass\n"),)


class _Ours:
    def __iter__(self) -> Iterator[str]:
        return iter(("RemoveCall",))

    def __getitem__(self, name: str) -> type[Operator]:
        return {"RemoveCall": RemoveCall}[name]


plugins.OPERATOR_PROVIDERS["planrunner"] = _Ours()


def mutants(path: str, *, sample: int | None, chance: random.Random) -> tuple[list[WorkItem], int]:
    """The mutants of a module that are to be tried, in its order, and how many there were to choose from."""
    source = Path(path).read_text(encoding="utf-8")
    same = _meaning(source)
    kinds: dict[tuple[object, ...], list[WorkItem]] = {}
    items = sorted(_all_work_items([Path(path)], {}), key=_place)
    for item in items:
        spec = item.mutations[0]
        if _meaning(_code(source, spec)) not in {None, same}:
            kinds.setdefault(_kind(spec), []).append(item)
    # Eleven ways to replace one operator would say eleven times what one says.
    found = [chance.choice(alike) for alike in kinds.values()]
    if sample is None or sample >= len(found):
        return found, len(found)
    return sorted(chance.sample(found, sample), key=_place), len(found)


def _code(source: str, spec: MutationSpec) -> str:
    # Whether equal values are one object too is the interpreter's business.
    if re.search(r"_(Not)?Eq_Is(Not)?$", spec.operator_name):
        return source
    try:
        return mutate_code(source, plugins.get_operator(spec.operator_name)(), spec.occurrence) or source
    except AttributeError:
        # The engine knows no `except (module.A, module.B)`.
        return source


def _place(item: WorkItem) -> tuple[object, ...]:
    spec = item.mutations[0]
    return spec.start_pos, spec.end_pos, spec.operator_name, spec.occurrence


def _kind(spec: MutationSpec) -> tuple[object, ...]:
    replaced = _REPLACED_WITH.fullmatch(spec.operator_name.removeprefix("core/"))
    kind = (replaced[1],) if replaced else (spec.operator_name, spec.occurrence)
    return spec.start_pos, spec.end_pos, *kind


def _meaning(source: str) -> str | None:
    """What runs of a source text: without annotations, imports for them, and how strictly callers are held to names.

    None for what is no program. The type checkers, which `make check` runs, know these better than any test.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return None
    return ast.dump(_WithoutTypes().visit(ast.parse(source)))


class _WithoutTypes(ast.NodeTransformer):
    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        # By name or by place: callers say it by name.
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *(each for each in node.kw_defaults if each)]
        node.posonlyargs = node.kwonlyargs = node.kw_defaults = []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for each in node.decorator_list:
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "dataclass":
                each.keywords = []
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        names = {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}
        return None if names == {"TYPE_CHECKING"} else self.generic_visit(node)
