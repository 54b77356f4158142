"""The schema that editors load and the page about the file agree with the schema that checks."""

from pathlib import Path

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from planrunner.fleet.outline import fleet_schema
from planrunner.fleet.reference import pages, write
from planrunner.loading.source import read

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == pages()[name], "run: make docs"


def test_generated_files_are_written_where_they_belong(tmp_path: Path) -> None:
    write(tmp_path)

    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(pages())


@pytest.mark.parametrize("dialect", [Draft7Validator, Draft202012Validator])
def test_the_example_fits_the_editors_schema(dialect: type[Draft7Validator]) -> None:
    dialect.check_schema(fleet_schema())
    tree = read(ROOT / "plans/fleet/fleet.yaml").tree

    assert [error.message for error in dialect(fleet_schema()).iter_errors(tree)] == []
