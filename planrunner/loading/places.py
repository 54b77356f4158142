"""Where keys belong: finds values by their keys, and the place of a key that stands in the wrong one."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from planrunner import registry
from planrunner.loading.schema import rendered_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.loading.document import Keys
    from planrunner.loading.outline import Schema
    from planrunner.model import Json


def at(tree: Json, keys: Keys) -> Json:
    """The value at ``keys``; None where there is none."""
    for key in keys:
        if isinstance(tree, dict) and isinstance(key, str):
            tree = cast("dict[str, Json]", tree).get(key)
        elif isinstance(tree, list) and isinstance(key, int) and key < len(tree):
            tree = cast("list[Json]", tree)[key]
        else:
            return None
    return tree


def elsewhere(tree: Json, keys: Keys, name: str) -> str | None:
    """Advice about an unknown key ``name`` at ``keys`` that is known right above or below; None otherwise."""
    chain = list(_schemas(tree, keys))
    if not chain:
        return None
    for child, schema in _properties(chain[-1]).items():
        if name in _properties(schema):
            return f"It belongs below {child}: {child}: {{{name}: …}}"
    for depth in range(len(chain) - 2, -1, -1):
        if name in _properties(chain[depth]):
            inside = keys[depth] if isinstance(keys[depth], str) else keys[depth - 1]
            beside = (
                f"at the top of the file, not inside {inside}"
                if depth == 0
                else f"beside {inside}, not inside it"
            )
            return f"It belongs {beside}."
    return None


def _schemas(tree: Json, keys: Keys) -> Iterator[Schema]:
    """The schema of the root and of each value on the way to ``keys``; ends early where none is known."""
    schema: Schema | None = _root()
    for depth in range(len(keys) + 1):
        if schema is None:
            return
        schema = _with_options(schema, at(tree, keys[:depth])) if _is_step(keys[:depth]) else schema
        yield schema
        schema = _inner(schema, keys[depth]) if depth < len(keys) else None


@cache
def _root() -> Schema:
    return rendered_schema()


def _is_step(keys: Keys) -> bool:
    return len(keys) == 2 and keys[0] == "steps"


def _with_options(schema: Schema, step: Json) -> Schema:
    """The schema of a step with the options of its kind in place."""
    uses = cast("dict[str, Json]", step).get("uses") if isinstance(step, dict) else None
    if not isinstance(uses, str) or uses not in registry.step_names():
        return schema
    return {**schema, "properties": {**schema["properties"], "with": registry.fragment(uses)}}


def _inner(schema: Schema, key: str | int) -> Schema | None:
    if isinstance(key, int):
        found: Any = schema.get("items")
    else:
        found = _properties(schema).get(key, schema.get("additionalProperties"))
    return cast("Schema", found) if isinstance(found, dict) else None


def _properties(schema: Any) -> dict[str, Schema]:
    found = cast("Schema", schema).get("properties", {}) if isinstance(schema, dict) else {}
    return cast("dict[str, Schema]", found)
