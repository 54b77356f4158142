"""Assembles the schema of plan files from the outline and the fragments of the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planrunner import registry
from planrunner.loading import outline, outline_flow, outline_pool
from planrunner.loading.outline import Schema, mapping, text
from planrunner.loading.overlay_schema import plan_or_overlay

if TYPE_CHECKING:
    from collections.abc import Callable

_TEMPLATE: Schema = {"type": "string", "pattern": r"\{\{.*\}\}"}
# What a template is documented by stays outside the choice, where editors look for it.
_TOLD = ("title", "description", "default", "examples")


def plan_schema() -> Schema:
    """The schema of plan files as people write them: most values may be templates, and a base may be extended."""
    return plan_or_overlay(_assemble(_or_template))


def rendered_schema() -> Schema:
    """The schema of a plan whose templates are resolved."""
    return _assemble(lambda schema: schema)


def _assemble(leaves: Callable[[Schema], Schema]) -> Schema:
    sides = {side: _connection(side, leaves) for side in ("source", "target", "replica")}
    properties: Schema = {
        "apiVersion": _constant("API version", "The format of this file.", outline.API_VERSION),
        "kind": _constant("Kind", "What this file is.", outline.KIND),
        "metadata": leaves(outline.METADATA),
        "vars": outline.VARIABLES,
        "connections": mapping("Connections", "The two databases.", sides, required=["source", "target"]),
        "steps": {
            "type": "array",
            "title": "Steps",
            "description": "What is done, in this order, unless a step says what it needs.",
            "minItems": 1,
            "items": _step(leaves),
        },
        "notifications": leaves(outline_flow.NOTIFICATIONS),
        "pool": leaves(outline_pool.POOL),
    }
    required = ["apiVersion", "kind", "metadata", "connections", "steps"]
    plan = mapping(
        "planrunner plan", "The migration of one PostgreSQL database.", properties, required=required
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **plan}


def _constant(title: str, description: str, value: str) -> Schema:
    return {"type": "string", "title": title, "description": description, "const": value}


def _connection(side: str, leaves: Callable[[Schema], Schema]) -> Schema:
    schema = outline.connection(side)
    # Below password nothing is a template: a secret is a reference, never a value.
    return {**leaves(schema), "properties": {**leaves(schema)["properties"], "password": outline.PASSWORD}}


def _step(leaves: Callable[[Schema], Schema]) -> Schema:
    names = list(registry.step_names())
    properties: Schema = {
        "id": text("Id", "The step's name in this plan, unique in it.", "copy", pattern=outline.STEP_ID),
        "uses": {
            "type": "string",
            "title": "Uses",
            "description": "The kind of step; `planrunner explain STEP` tells about it.",
            "enum": names,
            "examples": ["snapshot"],
        },
        "with": {
            "type": "object",
            "title": "Options",
            "description": "The step's options.",
            "examples": [{"jobs": 8}],
        },
        "approval": leaves(outline.APPROVAL),
        **{name: leaves(schema) for name, schema in outline_flow.step_keys().items()},
        "description": text("Description", "A sentence for people.", "On Sunday, with the team present"),
    }
    # Not oneOf: with if/then a misspelt key is reported as that and nothing else.
    chosen = [_options(name, leaves) for name in names]
    step = mapping("Step", "One step of the migration.", properties, required=["id", "uses"])
    return {**step, "allOf": chosen} if chosen else step


def _options(name: str, leaves: Callable[[Schema], Schema]) -> Schema:
    fragment = {key: value for key, value in registry.fragment(name).items() if key != "$schema"}
    then: Schema = {"properties": {"with": leaves(fragment)}}
    if fragment.get("required"):
        then["required"] = ["with"]
    return {"if": {"properties": {"uses": {"const": name}}, "required": ["uses"]}, "then": then}


def _or_template(schema: Schema) -> Schema:
    if "properties" in schema:
        inner = {name: _or_template(value) for name, value in schema["properties"].items()}
        templated = {**schema, "properties": inner}
        # A word or a mapping: as a word it may be a template.
        return _leaf_or_template(templated) if isinstance(schema.get("type"), list) else templated
    if isinstance(schema.get("additionalProperties"), dict):
        # A mapping whose keys the plan chooses.
        templated = {**schema, "additionalProperties": _or_template(schema["additionalProperties"])}
        # A word or a mapping: as a word it may be a template.
        return _leaf_or_template(templated) if isinstance(schema.get("type"), list) else templated
    if "items" in schema:
        return {**schema, "items": _or_template(schema["items"])}
    free = schema.get("type") == "string" and not {"enum", "pattern"} & schema.keys()
    return schema if free else _leaf_or_template(schema)


def _leaf_or_template(schema: Schema) -> Schema:
    told: dict[str, Any] = {key: schema[key] for key in _TOLD if key in schema}
    rest = {key: value for key, value in schema.items() if key not in _TOLD}
    return {**told, "anyOf": [rest, _TEMPLATE]}
