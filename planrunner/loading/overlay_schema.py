"""The schema of plans and overlays in one: a file with ``extends`` needs to say only what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.loading.outline import STEP_ID, mapping, text

if TYPE_CHECKING:
    from planrunner.loading.outline import Schema

EXTENDS = "extends"
AFTER, BEFORE, REMOVE = "after", "before", "remove"
# Of these exactly one form can be chosen, so half of one and half of another would be none: given whole or not at all.
WHOLE = frozenset({"password", "secret"})
# What an overlay may leave out, because its base has it.
_LEFT_OUT = frozenset({"required", "minProperties"})
_BASE = text(
    "Extends",
    "The plan that this one builds upon: a file in this folder or below it. What stands here is laid over it, key by"
    " key and step by step.",
    "orders.yaml",
)
_REMOVED: Schema = {
    "type": "boolean",
    "title": "Remove",
    "description": "Leave this step of the base out.",
    "const": True,
    "examples": [True],
}


def plan_or_overlay(plan: Schema) -> Schema:
    """``plan`` is the schema of whole plans; a file with ``extends`` is held against what an overlay may say.

    By if and then, so that a misspelt key is reported as that, and nothing else.
    """
    head = {key: plan[key] for key in ("$schema", "title", "description", "type")}
    whole = {key: value for key, value in plan.items() if key not in {"$schema", "title", "description"}}
    return {**head, "if": {"required": [EXTENDS]}, "then": _overlay(whole), "else": whole}


def _overlay(plan: Schema) -> Schema:
    loose = _loosened(plan)
    properties = loose["properties"]
    steps = {**properties["steps"], "items": _step(properties["steps"]["items"])}
    return {**loose, "required": [EXTENDS], "properties": {EXTENDS: _BASE, **properties, "steps": steps}}


def _loosened(schema: Schema) -> Schema:
    made = {key: value for key, value in schema.items() if key not in _LEFT_OUT}
    if "properties" in made:
        inner = made["properties"].items()
        made["properties"] = {k: v if k in WHOLE else _loosened(v) for k, v in inner}
    for key in ("additionalProperties", "items", "then"):
        if isinstance(made.get(key), dict):
            made[key] = _loosened(made[key])
    for key in ("allOf", "anyOf"):
        if key in made:
            made[key] = [_loosened(part) for part in made[key]]
    return made


def _step(entry: Schema) -> Schema:
    own = {
        REMOVE: _REMOVED,
        AFTER: _place("After", "A new step goes right after the step of this id."),
        BEFORE: _place("Before", "A new step goes right before the step of this id."),
    }
    known = cast("Schema", entry["properties"])
    # A step may have a key of that name; then either form can stand.
    either = {k: _either(known[k], v) if k in known else v for k, v in own.items()}
    loose = mapping(entry["title"], "What differs in this step.", {**known, **either}, required=["id"])
    return {**loose, "allOf": entry["allOf"]} if "allOf" in entry else loose


def _either(one: Schema, other: Schema) -> Schema:
    return {
        "title": f"{one['title']}, or where it goes",
        "description": f"{one['description']} Or the id of a step: {other['description']}",
        "examples": [*one.get("examples", []), *other["examples"]],
        "anyOf": [one, other],
    }


def _place(title: str, description: str) -> Schema:
    return text(title, description, "copy", pattern=STEP_ID)
