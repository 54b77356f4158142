"""Resolves ``{{ vars.NAME }}`` in the leaves of a plan; nothing else of Jinja2 is let through."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from planrunner.loading.document import Document, Keys, shown, suggestion
from planrunner.loading.sensitive import refusal
from planrunner.masking import HIDDEN
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes, sandbox

    from planrunner.loading.variables import Variables
    from planrunner.model import Json, Problem
else:
    # A plan without templates is read without them.
    jinja2 = on_demand("jinja2")
    nodes = on_demand("jinja2.nodes")
    sandbox = on_demand("jinja2.sandbox")

_LONGEST_TEMPLATE = 10_000
_LONGEST_RESULT = 10_000
_MOST_TEMPLATES = 2_000
_DEEPEST_EXPRESSION = 20
_FILTERS = ("lower", "upper", "trim", "string")
_STATEMENTS = {
    "block_begin": "statements ({% %})",
    "raw_begin": "statements ({% %})",
    "comment_begin": "comments ({# #})",
}
_HOW = "Write {{ vars.NAME }}."


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The plan without templates; ``told`` are the leaves that could not be rendered.

    ``sensitive`` are the leaves that hold the value of a sensitive variable.
    """

    tree: Json
    problems: tuple[Problem, ...]
    told: frozenset[Keys]
    sensitive: frozenset[Keys] = frozenset()


class _Refused(Exception):
    """A template that is not resolved; None as message when the reason is told elsewhere."""

    def __init__(self, message: str | None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def render(document: Document, variables: Variables) -> Rendered:
    """Resolve every leaf; those that can't be stay as they are.

    A value that is not looked up yet is ``***``, and about leaves that hold one nothing is said.
    """
    renderer = _Renderer(document, variables, sealed=False)
    tree = renderer.value(document.tree, ())
    return Rendered(
        tree=tree,
        problems=tuple(renderer.problems),
        told=frozenset(renderer.told),
        sensitive=frozenset(renderer.sensitive),
    )


def sealed(document: Document, variables: Variables, rendered: Rendered) -> Rendered:
    """The same plan with ``***`` in place of every sensitive value."""
    if not rendered.sensitive:
        return rendered
    renderer = _Renderer(document, variables, sealed=True)
    return replace(rendered, tree=renderer.again(rendered.tree, document.tree, rendered.sensitive, ()))


class _Renderer:
    def __init__(self, document: Document, variables: Variables, *, sealed: bool) -> None:
        self._document = document
        self._variables = variables
        hidden = dict.fromkeys([*variables.pending, *(variables.sensitive if sealed else ())], HIDDEN)
        self._known: dict[str, Any] = {**variables.values, **hidden}
        # Not a mapping: its methods would hide variables called items or keys.
        self._scope = {"vars": SimpleNamespace(**self._known)}
        self._met: set[str] = set()
        self.problems: list[Problem] = []
        self.told: set[Keys] = set()
        self.sensitive: set[Keys] = set()
        self._count = 0

    def value(self, value: Json, keys: Keys) -> Json:
        if keys == ("vars",):
            return value
        if isinstance(value, dict):
            entries = cast("dict[str, Json]", value).items()
            return {name: self.value(inner, (*keys, name)) for name, inner in entries}
        if isinstance(value, list):
            return [self.value(inner, (*keys, i)) for i, inner in enumerate(cast("list[Json]", value))]
        return self._leaf(value, keys) if isinstance(value, str) else value

    def again(self, value: Json, written: Json, leaves: frozenset[Keys], keys: Keys) -> Json:
        """A rendered value with only ``leaves`` resolved anew; ``written`` is what stands in the plan there."""
        if isinstance(value, dict) and isinstance(written, dict):
            old, new = cast("dict[str, Json]", value), cast("dict[str, Json]", written)
            return {name: self.again(old[name], new[name], leaves, (*keys, name)) for name in old}
        if isinstance(value, list) and isinstance(written, list):
            pairs = zip(cast("list[Json]", value), cast("list[Json]", written), strict=True)
            return [self.again(old, new, leaves, (*keys, i)) for i, (old, new) in enumerate(pairs)]
        return self._leaf(cast("str", written), keys) if keys in leaves else value

    def _leaf(self, text: str, keys: Keys) -> Json:
        if "{{" not in text and "{%" not in text and "{#" not in text:
            return text
        self._met.clear()
        try:
            value = self._resolved(text, keys)
            self._note_sensitive(keys)
        except _Refused as refused:
            self.told.add(keys)
            if refused.message is not None:
                self.problems.append(self._document.problem(keys, refused.message, refused.remedy))
            return text
        return value

    def _note_sensitive(self, keys: Keys) -> None:
        """What the leaf at ``keys``, just resolved, holds of sensitive variables."""
        if not self._met:
            return
        if (why := refusal(keys)) is not None:
            raise _Refused(*why)
        self.sensitive.add(keys)
        if self._met & self._variables.pending.keys():
            self.told.add(keys)

    def _resolved(self, text: str, keys: Keys) -> Json:
        if "password" in keys[:3]:
            if "{{" not in text:
                return text
            raise _Refused(
                "a secret can't be a template",
                "Refer to where it is kept, literally: password: {secret: {env: SOURCE_PASSWORD}}",
            )
        if _is_literal(keys):
            raise _Refused(f"{keys[-1]} can't be a template", "Write it out.")
        self._count += 1
        if self._count > _MOST_TEMPLATES:
            # Said once; each costs about half a millisecond.
            first = self._count == _MOST_TEMPLATES + 1
            raise _Refused(f"more than {_MOST_TEMPLATES:,} templates" if first else None, "Split the plan.")
        if len(text) > _LONGEST_TEMPLATE:
            raise _Refused(f"a template longer than {_LONGEST_TEMPLATE:,} characters", "Shorten it.")
        try:
            return _bounded(self._evaluate(text))
        except RecursionError as error:
            raise _Refused("the expression is nested too deeply", _HOW) from error
        except jinja2.TemplateError as error:
            raise _Refused(f"the template can't be read: {error.message}", _HOW) from error
        except (TypeError, ValueError, ArithmeticError) as error:
            raise _Refused("the expression can't be computed", "Check the types of its parts.") from error

    def _evaluate(self, text: str) -> Json:
        expression = self._checked(text)
        if expression is None:
            return _environment().from_string(text).render(self._scope)
        inner = text[2:-2].removeprefix("-").removesuffix("-")
        value: Any = _environment().compile_expression(inner, undefined_to_none=False)(**self._scope)
        if isinstance(value, jinja2.StrictUndefined):
            raise _Refused("the expression has no value", _HOW)
        return cast("Json", value)

    def _checked(self, text: str) -> nodes.Node | None:
        """The expression that is the whole leaf, None when there is text around it."""
        for _, token, _ in _environment().lex(text):
            if token in _STATEMENTS:
                raise _Refused(f"{_STATEMENTS[token]} are not allowed", _HOW)
        template = _environment().parse(text)
        parts = [part for output in template.body for part in output.iter_child_nodes()]
        for part in parts:
            self._check(part, 0)
        alone = len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData)
        return parts[0] if alone and text.startswith("{{") and text.endswith("}}") else None

    def _check(self, node: nodes.Node, depth: int) -> None:
        if depth > _DEEPEST_EXPRESSION:
            raise _Refused("the expression is nested too deeply", _HOW)
        if not isinstance(node, _allowed()):
            raise _Refused(f"{_name_of(node)} is not allowed in a template", _HOW)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            self._check_variable(node, alone=depth == 0)
            return
        if isinstance(node, nodes.Name):
            raise _Refused(_bare_name(node.name), _HOW)
        if isinstance(node, nodes.Const):
            _bounded(node.value)
        if isinstance(node, nodes.Filter):
            _check_filter(node)
        for child in node.iter_child_nodes():
            self._check(child, depth + 1)

    def _check_variable(self, node: nodes.Getattr | nodes.Getitem, *, alone: bool) -> None:
        name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if not isinstance(node.node, nodes.Name) or node.node.name != "vars" or not isinstance(name, str):
            raise _Refused("only vars.NAME can be looked up in a template", _HOW)
        if name not in self._variables.declared:
            known = suggestion(name, sorted(self._variables.declared), label="Declared")
            raise _Refused(f"vars.{name[:60]} is not declared", known)
        if name not in self._known:
            raise _Refused(None)
        if name not in self._variables.sensitive:
            return
        if not alone:
            # What an expression makes of a value is not known to be masked.
            text = f"vars.{name} is sensitive and can't be part of an expression"
            raise _Refused(text, f"Write {{{{ vars.{name} }}}} alone, with text around it if need be.")
        self._met.add(name)


def _is_literal(keys: Keys) -> bool:
    return keys in {("apiVersion",), ("kind",)} or (
        len(keys) == 3 and keys[0] == "steps" and keys[2] in {"id", "uses"}
    )


@cache
def _allowed() -> tuple[type[nodes.Node], ...]:
    """Nothing in this list can make a value larger than the sum of its parts, or run for long."""
    return (
        nodes.Output,
        nodes.TemplateData,
        nodes.Const,
        nodes.Name,
        nodes.Getattr,
        nodes.Getitem,
        nodes.Concat,
        nodes.CondExpr,
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Neg,
        nodes.Add,
        nodes.Sub,
        nodes.Filter,
    )


@cache
def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    made = sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=_as_text,
        cache_size=0,
        optimized=False,
    )
    made.globals.clear()
    made.tests.clear()
    made.filters = {name: made.filters[name] for name in _FILTERS}
    return made


def _as_text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _bounded(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        raise _Refused("the expression is not a finite number", None)
    if isinstance(value, str) and len(value) > _LONGEST_RESULT:
        raise _Refused(f"the result is longer than {_LONGEST_RESULT:,} characters", None)
    if value is None or isinstance(value, str | int | float):
        return value
    raise _Refused("the expression is no text, number or boolean", _HOW)


def _constant(node: nodes.Expr) -> object:
    return node.value if isinstance(node, nodes.Const) else None


def _bare_name(name: str) -> str:
    return "vars itself is not a value" if name == "vars" else f"{shown(name)} is not known in a template"


def _name_of(node: nodes.Node) -> str:
    known: dict[type[nodes.Node], str] = {
        nodes.Call: "a call",
        nodes.Pow: "**",
        nodes.Mul: "*",
        nodes.Div: "/",
        nodes.Mod: "%",
    }
    return known.get(type(node), f"a {type(node).__name__.lower()}")


def _check_filter(node: nodes.Filter) -> None:
    if node.name not in _FILTERS:
        known = suggestion(node.name, _FILTERS, label="There are")
        raise _Refused(f"unknown filter {shown(node.name)}", known)
    if node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
        raise _Refused(f"the filter {node.name} takes no arguments", None)
