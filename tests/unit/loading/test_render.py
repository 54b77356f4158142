"""Templates on the leaves of a plan."""

import json
import time

import pytest

from planrunner.loading.render import Rendered, render
from planrunner.loading.source import parse
from planrunner.loading.variables import Value, Variables
from planrunner.model import Json

VALUES: dict[str, Value] = {
    "host": "Db",
    "port": 5432,
    "big": True,
    "rate": 0.5,
    "items": "own",
    "text": "x" * 9_000,
}


def rendered(text: str) -> Rendered:
    variables = Variables(values=VALUES, declared=frozenset({*VALUES, "broken"}), problems=())
    return render(parse("plan.yaml", f"leaf: {json.dumps(text)}"), variables)


def leaf(text: str) -> Json:
    result = rendered(text)
    assert not result.problems
    assert isinstance(result.tree, dict)
    return result.tree["leaf"]  # type: ignore[no-any-return]  # isinstance leaves the values open


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ vars.port }}", 5432),
        ("{{vars.big}}", True),
        ("{{- vars.rate -}}", 0.5),
        ("{{ vars['host'] }}", "Db"),
        ("{{ vars.items }}", "own"),
        (" {{ vars.port }}", " 5432"),
        ("{{ vars.port }}{{ vars.port }}", "54325432"),
        ("{{ vars.port }}\n", "5432\n"),
        ("h={{ vars.host | lower }} b={{ vars.big }}", "h=db b=true"),
        ("{{ vars.port + 1 }}", 5433),
        ("{{ vars.host ~ '-' ~ vars.port }}", "Db-5432"),
        ("{{ 'a' if vars.big else 'b' }}", "a"),
        ("{{ '{#' }}", "{#"),
        ("no template }} here", "no template }} here"),
    ],
)
def test_leaf_is_resolved(text: str, value: Json) -> None:
    assert leaf(text) == value
    assert type(leaf(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 2 ** 99999999 }}",
        "{{ 'a' * 999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ range(10 ** 9) }}",
        "{{ vars.host.__class__.__mro__ }}",
        "{{ vars.__class__ }}",
        "{{ vars['__class__'] }}",
        "{{ vars.host['upper'] }}",
        "{{ vars[vars.host] }}",
        "{{ (vars).host.upper() }}",
        "{{ vars.host | center(999999999) }}",
        "{{ vars.host | attr('__class__') }}",
        "{{ vars.host | lower(1) }}",
        "{{ [vars.host] }}",
        "{{ {'a': 1} }}",
        "{{ vars.host[0:1] }}",
        "{{ vars.host is defined }}",
        "{{ lipsum() }}",
        "{{ self }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "1+" * 2000 + "1 }}",
        "{{ " + "not " * 2000 + "1 }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ 1e999 }}",
        "{{ 1e308 + 1e308 }}",
        "{{ none }}{{ 1e999 }}",
        "{{ 1 / 0 }}",
        "{{ vars.host - 1 }}",
        "{{ vars.text ~ vars.text }}",
        "{{ vars.host } }",
        "{{ }}",
        "{% set x = 1 %}",
        "{% raw %}{{ x }}{% endraw %}",
        "{# comment #}",
        "{{ vars.undeclared }}",
        "x" * 20_000 + "{{ vars.host }}",
    ],
)
def test_hostile_template_is_refused_at_once(text: str) -> None:
    begun = time.monotonic()

    result = rendered(text)

    assert len(result.problems) == 1
    assert ("leaf",) in result.told
    assert time.monotonic() - begun < 2


def test_variable_whose_fault_is_told_elsewhere_is_not_told_again() -> None:
    result = rendered("{{ vars.broken }}")

    assert (result.problems, result.told) == ((), {("leaf",)})


def test_what_a_variable_holds_is_not_rendered_again() -> None:
    variables = Variables(values={"a": "{{ vars.b }}", "b": "x"}, declared=frozenset("ab"), problems=())

    result = render(parse("plan.yaml", "leaf: 'a{{ vars.a }}'"), variables)

    assert result.tree == {"leaf": "a{{ vars.b }}"}


def test_variables_and_keys_are_left_alone() -> None:
    variables = Variables(values={"a": "x"}, declared=frozenset("a"), problems=())
    document = parse("plan.yaml", "vars: {a: '{{ vars.a }}'}\n'{{ vars.a }}': 1\n")

    assert render(document, variables).tree == document.tree


def test_very_many_templates_are_refused_once() -> None:
    variables = Variables(values={"a": "x"}, declared=frozenset("a"), problems=())

    result = render(parse("plan.yaml", "- '{{ vars.a }}'\n" * 3_000), variables)

    assert [p.message for p in result.problems] == ["more than 2,000 templates"]
