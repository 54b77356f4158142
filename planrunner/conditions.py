"""The expressions of ``when``: which names they may use, and whether they hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.flow import Condition

Fact: TypeAlias = "str | int | float | bool | None"

SIDE_FACTS = (
    "version",
    "version_num",
    "version_text",
    "database",
    "user",
    "superuser",
    "in_recovery",
    "is_rds",
)
STEP_FACTS = ("status", "attempts", "seconds")
LONGEST = 1_000
_DEEPEST = 20
# Nothing in this list can make a value larger than the sum of its parts, or run for long.
_ALLOWED = (
    nodes.Const,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Add,
    nodes.Sub,
    nodes.List,
    nodes.Tuple,
    nodes.CondExpr,
)


class NotACondition(Exception):
    """The text is no expression of this kind; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotKnownYet(Exception):
    """The expression asks for something that only the run will tell."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known while a condition is looked at; None for a side or a step of which nothing is known yet."""

    source: Mapping[str, Fact] | None = None
    target: Mapping[str, Fact] | None = None
    steps: Mapping[str, Mapping[str, Fact] | None]


def names(text: str) -> tuple[tuple[str, ...], ...]:
    """Every name that the expression looks up: ``("steps", "copy", "status")``; NotACondition."""
    return tuple(dict.fromkeys(_names(_parsed(text), 0)))


def holds(condition: Condition, facts: Facts) -> bool:
    """Whether it holds; NotKnownYet where a fact is missing, NotACondition where it can't be computed."""
    tree = _parsed(condition.text)
    wanted = tuple(_names(tree, 0))
    for name in wanted:
        _refuse_unknown(name, facts)
    # Not mappings: their methods would hide a step that is called copy or keys.
    scope = {
        "vars": SimpleNamespace(**condition.variables),
        "source": SimpleNamespace(**(facts.source or {})),
        "target": SimpleNamespace(**(facts.target or {})),
        "steps": SimpleNamespace(
            **{step_id: SimpleNamespace(**told) for step_id, told in facts.steps.items() if told is not None}
        ),
    }
    try:
        value: Any = _environment().compile_expression(condition.text, undefined_to_none=False)(**scope)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise NotACondition("it can't be computed: check the types of its parts") from error
    if not isinstance(value, bool):
        raise NotACondition("it is neither true nor false: compare it with something")
    return value


def shown_facts(condition: Condition, facts: Facts) -> str:
    """The facts that the expression looked up and their values; never a variable's."""
    told: list[str] = []
    for name in names(condition.text):
        if name[0] in ("source", "target"):
            side = facts.source if name[0] == "source" else facts.target
            told.append(f"{name[0]}.{name[1]} is {(side or {}).get(name[1])}")
        elif name[0] == "steps":
            told.append(f"steps.{name[1]}.{name[2]} is {(facts.steps.get(name[1]) or {}).get(name[2])}")
    return ", ".join(told)


def _refuse_unknown(name: tuple[str, ...], facts: Facts) -> None:
    if name[0] == "source" and facts.source is None:
        raise NotKnownYet
    if name[0] == "target" and facts.target is None:
        raise NotKnownYet
    if name[0] == "steps" and facts.steps.get(name[1]) is None:
        raise NotKnownYet


def _parsed(text: str) -> nodes.Node:
    if len(text) > LONGEST:
        raise NotACondition(f"longer than {LONGEST:,} characters")
    if any(mark in text for mark in ("{{", "}}", "{%", "{#")):
        raise NotACondition("it is an expression already: write it without {{ }}")
    try:
        template = _environment().parse("{{ " + text + " }}")
    except (TemplateError, RecursionError, ValueError, OverflowError) as error:
        raise NotACondition(
            f"it can't be read: {getattr(error, 'message', None) or 'nested too deeply'}"
        ) from error
    parts = [part for output in template.body for part in output.iter_child_nodes()]
    if len(parts) != 1:
        raise NotACondition("it is no expression")
    return parts[0]


def _names(node: nodes.Node, depth: int) -> Iterator[tuple[str, ...]]:
    if depth > _DEEPEST:
        raise NotACondition("it is nested too deeply")
    if isinstance(node, nodes.Getattr | nodes.Getitem | nodes.Name):
        yield _path(node)
        return
    if not isinstance(node, _ALLOWED):
        raise NotACondition(f"a {type(node).__name__.lower()} is not allowed in it")
    for child in node.iter_child_nodes():
        yield from _names(child, depth + 1)


def _path(node: nodes.Node) -> tuple[str, ...]:
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr):
        return (*_path(node.node), node.attr)
    if (
        isinstance(node, nodes.Getitem)
        and isinstance(node.arg, nodes.Const)
        and isinstance(node.arg.value, str)
    ):
        return (*_path(node.node), node.arg.value)
    raise NotACondition("only names such as vars.NAME, source.version or steps.ID.status can be looked up")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, cache_size=0, optimized=False)
    made.globals.clear()
    made.tests.clear()
    made.filters.clear()
    return made
