"""The schema of fleet files: a template plan, an inventory of members, waves and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.loading import outline
from planrunner.loading.outline import ACCESS, API_VERSION, STEP_ID, VARIABLE_NAME, mapping, text
from planrunner.loading.outline_pool import POOL

if TYPE_CHECKING:
    from planrunner.loading.outline import Schema

KIND = "Fleet"
CANARY = "canary"
# What AWS tells of an instance or a cluster; beside these, tag:KEY.
ATTRIBUTES = ("identifier", "endpoint", "port", "engine", "version", "database")
_ATTRIBUTE = rf"^({'|'.join(ATTRIBUTES)}|tag:.+)$"

_VALUE: Schema = {
    "type": ["string", "integer", "boolean", "number"],
    "title": "Value",
    "description": "The variable's value, literally.",
}
_MEMBERS: Schema = {
    "type": "array",
    "title": "Members",
    "description": "Names of members, or patterns with *, ? and [].",
    "items": {"type": "string", "minLength": 1, "examples": ["shop-0*"]},
    "minItems": 1,
    "examples": [["shop-001", "shop-0*"]],
}


def _values(description: str, example: Schema) -> Schema:
    return {
        "type": "object",
        "title": "Variables",
        "description": description,
        "propertyNames": {"pattern": VARIABLE_NAME},
        "additionalProperties": _VALUE,
        "examples": [example],
    }


def _plan(description: str, example: str) -> Schema:
    return text("Plan", description, example)


_METADATA = mapping(
    "Metadata",
    "What the fleet is called.",
    {
        "name": text("Name", "The fleet's name.", "shops", pattern=outline.PLAN_NAME),
        "description": text("Description", "A sentence for people.", "All shops leave RDS"),
    },
    required=["name"],
)
_ROWS: Schema = {
    "type": "array",
    "title": "Rows",
    "description": "Members one by one: a name and the plan's variables.",
    "minItems": 1,
    "items": mapping(
        "Row",
        "One member; every other key is a variable of the plan.",
        {
            "name": text(
                "Name",
                "The member's name, unique in the fleet; its files are called after it.",
                "shop-001",
                pattern=outline.PLAN_NAME,
            )
        },
        required=["name"],
        propertyNames={"pattern": VARIABLE_NAME},
        additionalProperties=_VALUE,
    ),
}
_RDS = mapping(
    "RDS discovery",
    "Instances and Aurora clusters that carry all these tags, as AWS lists them at the first run; the list is then kept"
    " in the fleet's folder.",
    {
        "tags": {
            "type": "object",
            "title": "Tags",
            "description": "The tags that an instance or cluster must have, each with this value.",
            "minProperties": 1,
            "additionalProperties": {"type": "string", "title": "Value", "description": "The tag's value."},
            "examples": [{"migrate": "shops"}],
        },
        "vars": {
            "type": "object",
            "title": "Variables",
            "description": "What of an instance becomes which variable of the plan:"
            f" {', '.join(ATTRIBUTES)}, or tag:KEY.",
            "minProperties": 1,
            "propertyNames": {"pattern": VARIABLE_NAME},
            "additionalProperties": {
                "type": "string",
                "title": "Attribute",
                "description": "What AWS tells.",
                "pattern": _ATTRIBUTE,
                "examples": ["endpoint", "tag:database"],
            },
            "examples": [{"source_host": "endpoint", "database": "tag:database"}],
        },
        **ACCESS,
    },
    required=["tags", "vars"],
)
_INVENTORY = mapping(
    "Inventory",
    "Who the members are: rows, a CSV file, RDS, or several of them together.",
    {
        "rows": _ROWS,
        "csv": text(
            "CSV file",
            "A file beside the fleet or below it. Its first line names the columns: name, and variables of the plan; an"
            " empty cell leaves the variable to the plan.",
            "shops.csv",
        ),
        "rds": _RDS,
    },
    minProperties=1,
)
_WAVES: Schema = {
    "type": "array",
    "title": "Waves",
    "description": "Groups of members, one after the other; without them all members are one wave.",
    "minItems": 1,
    "items": mapping(
        "Wave",
        "A wave begins when nothing of the one before it is to be done or waits.",
        {
            "name": text("Name", "The wave's name, unique in the fleet.", "europe", pattern=STEP_ID),
            "members": {
                **_MEMBERS,
                "description": "Names of members, or patterns with *, ? and []; without them it has all that no other"
                " wave names.",
            },
            "approval": {
                **outline.APPROVAL,
                "description": "Whether the wave begins by itself or waits for `planrunner fleet approve`.",
            },
        },
        required=["name"],
    ),
}
_OVERRIDES: Schema = {
    "type": "array",
    "title": "Overrides",
    "description": "What differs for some members. A later entry counts more than an earlier one, and each more than the"
    " inventory.",
    "minItems": 1,
    "items": mapping(
        "Override",
        "What differs for these members.",
        {
            "members": _MEMBERS,
            "vars": _values("Variables of the plan.", {"jobs": 16}),
            "plan": _plan(
                "A plan instead of the template, such as an overlay that extends it: a file beside the fleet or below"
                " it.",
                "shop-with-archive.yaml",
            ),
        },
        required=["members"],
    ),
}


def fleet_schema() -> Schema:
    """The schema of fleet files."""
    constants: Schema = {
        "apiVersion": _constant("API version", "The format of this file.", API_VERSION),
        "kind": _constant("Kind", "What this file is.", KIND),
    }
    fleet = mapping(
        "planrunner fleet",
        "The migration of many PostgreSQL databases by one plan.",
        {**constants, **_properties()},
        required=["apiVersion", "kind", "metadata", "plan", "inventory"],
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **fleet}


def _properties() -> Schema:
    return {
        "metadata": _METADATA,
        "plan": _plan(
            "The template: a plan beside the fleet or below it, whose variables the members give their values.",
            "shop.yaml",
        ),
        "vars": _values("Variables of the plan that are the same for all members.", {"region": "us-east-1"}),
        "inventory": _INVENTORY,
        "overrides": _OVERRIDES,
        "canary": {
            **_MEMBERS,
            "title": "Canary",
            "description": "Members that go first, before every wave; all of them must be done before the first wave"
            " begins.",
        },
        "waves": _WAVES,
        "max_parallel": _count("Most at once", "How many members are worked on at once.", 4, 64),
        "state": text(
            "State",
            "Where the members' states are: `target`, each in its own target database, or `s3://BUCKET/PREFIX/`, an"
            " object each; a run may then be on any machine, and takes along what the plan refers to. By default they"
            " are files of the fleet's folder.",
            "target",
        ),
        "pool": {
            **POOL,
            "description": "Who performs the members' runs. By default this machine; with `dask` the workers of a"
            " scheduler of dask.distributed, on as many machines as you like. It needs `state`. `fleet run --pool` says"
            " another.",
        },
        "stop_after": _count(
            "Stop after",
            "After this many members have failed no other is begun; those at work finish.",
            1,
            100_000,
        ),
    }


def _count(title: str, description: str, default: int, most: int) -> Schema:
    return {
        "type": "integer",
        "title": title,
        "description": description,
        "minimum": 1,
        "maximum": most,
        "default": default,
        "examples": [default * 2],
    }


def _constant(title: str, description: str, value: str) -> Schema:
    return {"type": "string", "title": title, "description": description, "const": value}
