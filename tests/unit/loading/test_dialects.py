"""The schema means the same to an editor of draft-07 as to one of 2020-12, and explains every key."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from planrunner import registry
from planrunner.loading.reference import pages, step_page
from planrunner.loading.schema import plan_schema
from planrunner.loading.source import parse_bytes
from tests.unit.loading import fuzzed

if TYPE_CHECKING:
    from collections.abc import Iterator

# `make test` sets 20,000 fuzzed plans; a tenth of them is held against both dialects here.
FUZZED = int(os.environ.get("PLANRUNNER_FUZZED_PLANS", "500")) // 10
FILES = (*fuzzed.VALID, *fuzzed.BROKEN)
SAME_IN_BOTH = frozenset(
    [
        "$schema",
        "title",
        "description",
        # Of ours only plan-file, which no validator knows: it tells the loader that a file is meant.
        "format",
        "default",
        "examples",
        "type",
        "const",
        "enum",
        "properties",
        "required",
        "additionalProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "items",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "if",
        "then",
        "else",
        "allOf",
        "anyOf",
        "not",
    ]
)


@cache
def validators() -> tuple[Any, Any]:
    twin = {**plan_schema(), "$schema": "http://json-schema.org/draft-07/schema#"}
    return Draft202012Validator(plan_schema()), Draft7Validator(twin)


def verdicts(tree: Any) -> list[list[tuple[str, str]]]:
    return [
        sorted((str(list(e.absolute_path)), str(e.validator)) for e in v.iter_errors(tree))
        for v in validators()
    ]


def schemas(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its place."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for word in ("properties",):
        for name, inner in schema.get(word, {}).items():
            yield from schemas(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties", "propertyNames", "if", "then", "else", "not"):
        yield from schemas(schema.get(word), f"{path}/{word}")
    for word in ("allOf", "anyOf"):
        for index, inner in enumerate(schema.get(word, [])):
            yield from schemas(inner, f"{path}/{word}{index}")


def properties() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a plan may hold; the branch of a step narrows ``uses`` and ``with`` and explains nothing."""
    for path, schema in schemas(plan_schema()):
        if "/if" not in path:
            yield from ((f"{path}.{name}", inner) for name, inner in schema.get("properties", {}).items())


def test_only_words_are_used_that_mean_the_same_in_both() -> None:
    used = {word for _, schema in schemas(plan_schema()) for word in schema}

    assert used <= SAME_IN_BOTH


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_both_dialects_judge_a_file_alike(path: Path) -> None:
    newer, older = verdicts(parse_bytes(str(path), path.read_bytes()).tree)

    assert newer == older


def test_both_dialects_judge_fuzzed_trees_alike() -> None:
    refused = 0
    for seed in range(FUZZED):
        chance = random.Random(seed)
        newer, older = verdicts(chance.choice((fuzzed.grown, fuzzed.changed))(chance))
        assert newer == older, seed
        refused += bool(newer)
    assert 0 < refused < FUZZED


def test_an_editor_can_explain_every_key() -> None:
    found = list(properties())
    silent = [path for path, schema in found if not {"title", "description"} <= schema.keys()]
    bare = [path for path, schema in found if not _shows(schema)]

    assert len(found) > 100
    assert silent == []
    assert bare == []


def _shows(schema: dict[str, Any]) -> bool:
    """Whether a key shows what to write: by examples, or because its members do."""
    inner = (schema, schema.get("items"), schema.get("additionalProperties"))
    own = {"examples", "const"} & schema.keys()
    # A step without options has members that are told, none.
    return bool(own) or any(isinstance(s, dict) and "properties" in s for s in inner)


def test_defaults_and_examples_are_valid_where_they_stand() -> None:
    for path, schema in properties():
        told = [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]
        validator = Draft202012Validator(schema)
        assert [(path, value) for value in told if not validator.is_valid(value)] == []


def test_explain_and_the_reference_tell_the_same_of_a_step() -> None:
    reference = pages()["docs/reference/steps.md"]
    for uses in registry.step_names():
        explained = subprocess.run(
            [sys.executable, "-m", "planrunner", "explain", uses], capture_output=True, text=True, check=True
        ).stdout
        assert explained.strip() == step_page(uses).strip()
        assert step_page(uses) in reference
        for name, option in registry.fragment(uses)["properties"].items():
            assert f"`{name}`" in explained
            assert option["description"] in explained


def check_jsonschema(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--output-format", "json", "--schemafile"),
            *(str(fuzzed.ROOT / "schemas/plan.schema.json"), *map(str, files)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_check_jsonschema_accepts_every_example_plan() -> None:
    ended = check_jsonschema(*sorted((fuzzed.ROOT / "plans").glob("*.yaml")))

    assert ended.returncode == 0, ended.stdout


def test_check_jsonschema_refuses_what_breaks_the_schema() -> None:
    broken = [p for p in fuzzed.BROKEN if _only_the_schema_is_broken(p)]
    ended = check_jsonschema(*broken)

    told = {Path(error["filename"]).name for error in json.loads(ended.stdout)["errors"]}
    assert ended.returncode == 1
    assert len(broken) > 60
    assert told == {path.name for path in broken}


def _only_the_schema_is_broken(path: Path) -> bool:
    """Readable, refused by the schema, and what another reader of YAML takes for the same."""
    import yaml

    document = parse_bytes(str(path), path.read_bytes())
    if document.problems:
        return False
    newer, _ = verdicts(document.tree)
    return bool(newer) and yaml.safe_load(path.read_bytes()) == document.tree
