"""The schema that editors load, and that the plans, the pages and the file on disk agree with it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from planrunner import registry
from planrunner.loading import load
from planrunner.loading.reference import pages, step_page, write
from planrunner.loading.schema import plan_schema, rendered_schema
from planrunner.loading.source import read
from planrunner.units import seconds, size

ROOT = Path(__file__).parents[3]
PLANS = sorted(path for folder in ("plans", "tests/data/valid") for path in (ROOT / folder).glob("*.yaml"))
SIX = ("enable_logical", "grant", "validate", "snapshot", "sync", "cutover_verify")


@pytest.mark.parametrize("dialect", [Draft7Validator, Draft202012Validator])
def test_schema_is_a_schema_in_both_dialects(dialect: Any) -> None:
    dialect.check_schema(plan_schema())
    dialect.check_schema(rendered_schema())


@pytest.mark.parametrize("dialect", [Draft7Validator, Draft202012Validator])
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_fit_the_editors_schema_with_their_templates(dialect: Any, path: Path) -> None:
    # Not yaml.safe_load: to YAML 1.1 the key ``on`` is a truth value.
    tree = read(path).tree

    assert [error.message for error in dialect(plan_schema()).iter_errors(tree)] == []


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_example_plan_lints(path: Path) -> None:
    assert load(path).steps


def test_broken_plans_do_not_fit_the_editors_schema() -> None:
    tree = yaml.safe_load((ROOT / "plans/demo.yaml").read_text("utf-8"))
    tree["steps"][3]["with"]["jobs"] = "four"

    assert list(Draft7Validator(plan_schema()).iter_errors(tree))


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == pages()[name], "run: make docs"


def test_generated_files_are_written_where_they_belong(tmp_path: Path) -> None:
    write(tmp_path)

    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(pages())


def test_the_users_six_steps_are_there() -> None:
    assert set(SIX) <= set(registry.step_names())


@pytest.mark.parametrize("uses", registry.step_names())
def test_every_option_is_documented_and_fits_itself(uses: str) -> None:
    fragment = registry.fragment(uses)
    validator = Draft202012Validator(fragment)

    assert fragment["additionalProperties"] is False
    for name, option in fragment["properties"].items():
        assert {"type", "title", "description", "examples"} <= option.keys(), name
        values = [*option["examples"], *([option["default"]] if "default" in option else [])]
        assert [error for value in values for error in validator.iter_errors({name: value})] == []


@pytest.mark.parametrize("uses", registry.step_names())
def test_step_page_names_every_option_and_its_default(uses: str) -> None:
    page = step_page(uses)

    for name, option in registry.fragment(uses)["properties"].items():
        assert f"| `{name}` |" in page
        assert option["description"] in page
        shown = option.get("default", "")
        assert (shown if isinstance(shown, str) else json.dumps(shown)) in page


def test_step_page_example_is_a_valid_step() -> None:
    for uses in registry.step_names():
        example = yaml.safe_load(step_page(uses).partition("```yaml\n")[2].partition("```")[0])
        (step,) = example["steps"]
        assert not list(Draft202012Validator(registry.fragment(uses)).iter_errors(step.get("with", {})))


def test_steps_stand_in_the_order_of_a_migration_on_their_page() -> None:
    page = pages()["docs/reference/steps.md"]

    places = [page.index(f"## {name}\n") for name in SIX]
    assert all(a < b for a, b in pairwise(places))


@pytest.mark.parametrize("uses", registry.step_names())
def test_durations_and_sizes_can_be_read(uses: str) -> None:
    for option in registry.fragment(uses)["properties"].values():
        for value in [*option["examples"], option.get("default")]:
            # An option may be a size or a mapping of sizes.
            for text in value.values() if isinstance(value, dict) else [value]:
                if value is not None and "(ms|s|m|h)" in option.get("pattern", ""):
                    assert seconds(text) > 0
                if value is not None and "(B|kB" in option.get("pattern", ""):
                    assert size(text) > 0
