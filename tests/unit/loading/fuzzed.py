"""Plans that nobody would write, made from the schema's own vocabulary and from plans that are right."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from planrunner import registry
from planrunner.loading.schema import rendered_schema

if TYPE_CHECKING:
    import random

ROOT = Path(__file__).parents[3]
_FILES = (*(ROOT / "plans").glob("*.yaml"), *(ROOT / "tests/data/valid").glob("*.yaml"))
# An overlay is no plan without its base.
VALID = sorted(path for path in _FILES if "\nextends:" not in path.read_text("utf-8"))
BROKEN = sorted((ROOT / "tests/data/invalid").glob("*.yaml"))
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 4, 99, 2**70, 0.5, -1.5, 1e300),
    *(
        "",
        "a",
        "A",
        "yes",
        "22:00",
        "5s",
        "16MB",
        "1 h",
        "*",
        "public.*",
        "a" * 300,
        "é",
        "💾",
        "\u202e",
        "\u2028",
        "x\ty",
    ),
    *(
        "{{ vars.host }}",
        "{{ vars.jobs }}",
        "{{ vars.",
        "{% if 1 %}",
        "{# x #}",
        "{{ 1 + 1 }}",
        "{{ vars.host.x }}",
    ),
    *(
        "{{ 'a' ~ vars.host }}",
        "{{ vars.host | upper }}",
        "{{ vars }}",
        "{{ (1).__class__ }}",
        "{{ -vars.jobs }}",
    ),
    *(
        "postgresql://u:p@h/d",
        "host=h dbname=d",
        "postgresql://h:x/d",
        "a=b",
        "://",
        "host='",
        "(a|aa)+$",
        "${HOST}",
    ),
)
TEXTS = (
    *(
        "{{ vars.host }}",
        "{{",
        "}}",
        "{%",
        "{#",
        "<<: *a",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
    ),
    *(
        '"',
        "'",
        "\\",
        "\t",
        "\n",
        "\r",
        "\r\n",
        ": ",
        ":",
        "- ",
        "-",
        "? ",
        "|\n",
        ">-\n",
        "[",
        "]",
        "{",
        "}",
        "#",
        " #",
        "%",
        ",",
    ),
    *(
        "\0",
        "\x1b",
        "\x85",
        "\u2028",
        "\ufeff",
        "💾",
        "é",
        '"\\ud800"',
        '"\\UFFFFFFFF"',
        "1e999",
        ".nan",
        "0x",
        "~",
        "null",
    ),
    *(
        "apiVersion",
        "kind",
        "metadata",
        "vars",
        "connections",
        "source",
        "target",
        "dsn",
        "password",
        "secret",
        "steps",
    ),
    *("id", "uses", "with", "approval", "snapshot", "  ", "    ", "a", "planrunner/v1", "MigrationPlan"),
)


@cache
def tree_of(path: Path) -> str:
    """A valid plan as JSON: quick to copy."""
    return json.dumps(yaml.safe_load(path.read_text("utf-8")))


@cache
def vocabulary() -> tuple[str, ...]:
    """Every key that the schema knows."""
    found: set[str] = set()

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            found.update(schema.get("properties", {}))
            for value in schema.values():
                walk(value)
        elif isinstance(schema, list):
            for value in schema:
                walk(value)

    walk(rendered_schema())
    return tuple(sorted(found))


def grown(chance: random.Random) -> Any:
    """A plan that mostly keeps to the schema, and here and there does not."""
    wild = chance.choice((0.0, 0.0, 0.01, 0.06))
    tree = _grown(chance, rendered_schema(), wild, 0)
    if wild == 0.0:
        tree["vars"] = {"host": {"default": "h"}}
        tree.pop("notifications", None)
        for index, step in enumerate(tree["steps"] or [{}]):
            step["id"] = f"s{index}"
            step.get("with", {}).pop("switch", None)
            # What exactly one of several keys must say, or what names something else of the plan.
            for name in ("needs", "when", "before", "after"):
                step.pop(name, None)
            match step["uses"]:
                case "sql":
                    step["with"] = {"statements": ["SELECT 1"]}
                case "wait":
                    step["with"] = {"query": "SELECT true"}
                case _:
                    pass
        for side, holder in tree["connections"].items():
            holder["dsn"] = f"host={side} dbname=app user={{{{ vars.host }}}}"
            holder["password"] = {"secret": {"env": "SECRET"}}
            holder.pop("ca_fingerprint", None)
    return tree


def _grown(chance: random.Random, schema: Any, wild: float, depth: int) -> Any:
    if chance.random() < wild or depth > 12:
        return chance.choice(SCALARS)
    if "const" in schema or "enum" in schema:
        return chance.choice(schema.get("enum") or [schema["const"]])
    if "properties" in schema:
        return _mapping(chance, schema, wild, depth)
    if "items" in schema:
        least = 0 if wild else 1
        return [_grown(chance, schema["items"], wild, depth + 1) for _ in range(chance.randrange(least, 4))]
    if isinstance(schema.get("additionalProperties"), dict):
        names = chance.sample(("host", "jobs", "public.a", "Odd Name", ""), chance.randrange(3))
        names = names if wild else [name for name in names if name == "public.a"]
        return {name: _grown(chance, schema["additionalProperties"], wild, depth + 1) for name in names}
    known = [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]
    return chance.choice(known) if known else chance.choice(SCALARS)


def _mapping(chance: random.Random, schema: Any, wild: float, depth: int) -> dict[str, Any]:
    properties = dict(schema["properties"])
    if "uses" in properties:
        uses = chance.choice(registry.step_names())
        properties = {**properties, "uses": {"const": uses}, "with": registry.fragment(uses)}
    required = schema.get("required", [])
    made: dict[str, Any] = {}
    for name, inner in properties.items():
        if chance.random() < (1.0 - wild if name in required else 0.4):
            written = _misspelt(chance, name) if chance.random() < wild / 2 else name
            made[written] = _grown(chance, inner, wild, depth + 1)
    if chance.random() < wild / 2:
        made[chance.choice(vocabulary())] = chance.choice(SCALARS)
    return made


def _misspelt(chance: random.Random, name: str) -> str:
    place = chance.randrange(len(name))
    return chance.choice(
        (name[:place] + name[place + 1 :], name.upper(), name + "s", name.replace("_", "-"), f" {name}")
    )


def changed(chance: random.Random) -> Any:
    """A valid plan with a few of its nodes dropped, doubled, renamed, swapped or given another type."""
    tree = json.loads(tree_of(chance.choice(VALID)))
    for _ in range(chance.randrange(1, 5)):
        _change(chance, tree)
    return tree


def _change(chance: random.Random, tree: Any) -> None:
    places = list(_places(tree))
    holder, key = chance.choice(places)
    match chance.randrange(7):
        case 0:
            del holder[key]
        case 1:
            holder[key] = chance.choice(SCALARS)
        case 2 if isinstance(holder, list):
            holder.append(json.loads(json.dumps(holder[key])))
        case 3 if isinstance(holder, dict):
            holder[_misspelt(chance, key) if key else "x"] = holder.pop(key)
        case 4:
            other, name = chance.choice(places)
            holder[key], other[name] = json.loads(json.dumps([other[name], holder[key]]))
        case 5:
            holder[key] = chance.choice(([holder[key]], {"a": holder[key]}, str(holder[key]), {}, []))
        case _:
            holder[key] = (
                f"{holder[key]}{chance.choice(TEXTS)}"
                if isinstance(holder[key], str)
                else chance.choice(SCALARS)
            )


def _places(value: Any) -> Any:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


def written(chance: random.Random, tree: Any) -> str:
    """A tree as YAML, in one of its styles."""
    if chance.random() < 0.3:
        return yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)
    return json.dumps(tree, indent=chance.choice((None, 1)), ensure_ascii=chance.random() < 0.5)


def damaged(chance: random.Random) -> bytes:
    """The bytes of a plan, right or broken, with pieces cut out and put in."""
    data = chance.choice((*VALID, *BROKEN)).read_bytes()[:4_000]
    for _ in range(chance.randrange(1, 7)):
        begin = chance.randrange(len(data) + 1)
        end = min(len(data), begin + chance.choice((0, 0, 1, 2, 10, 80)))
        put = chance.choice((b"", b"\xff", b"\xed\xa0\x80", b"\xc3", *(text.encode() for text in TEXTS)))
        data = data[:begin] + put + data[end:]
    return data


def scribbled(chance: random.Random) -> str:
    """Something that looks like YAML from afar."""
    return "".join(chance.choice(TEXTS) for _ in range(chance.randrange(1, 60)))
