"""Who the members are: the rows of the file, of its CSV file, and of what AWS listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.fleet.csv_rows import read_csv
from planrunner.fleet.model import Row, Value
from planrunner.fleet.tree import entries_at, mapping_at, text_at, written
from planrunner.loading import codes
from planrunner.loading.document import shown
from planrunner.loading.outline import PLAN_NAME
from planrunner.loading.references import stays_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_INVENTORY: Keys = ("inventory",)


def inventory(document: Document) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    """The rows in their order, each name once, and what is wrong with them."""
    from_csv, problems = _csv(document)
    rows = [*_rows(document), *from_csv]
    doubles = list(_doubles(rows))
    unique = {row.name.casefold(): row for row in reversed(rows)}
    kept = tuple(row for row in rows if unique[row.name.casefold()] is row)
    return kept, (*problems, *doubles)


def values_at(document: Document, keys: Keys) -> dict[str, Value]:
    """The variables in the mapping at ``keys``."""
    return _values(document, keys, mapping_at(document, keys))


def _values(document: Document, keys: Keys, given: Mapping[str, Json]) -> dict[str, Value]:
    return {
        name: Value(text=written(value), document=document, keys=(*keys, name))
        for name, value in given.items()
        if isinstance(value, str | int | float)
    }


def _rows(document: Document) -> Iterator[Row]:
    for keys, entry in entries_at(document, (*_INVENTORY, "rows")):
        name = entry.get("name")
        if isinstance(name, str) and re.fullmatch(PLAN_NAME, name):
            variables = {key: value for key, value in entry.items() if key != "name"}
            yield Row(
                name=name,
                document=document,
                keys=(*keys, "name"),
                values=_values(document, keys, variables),
            )


def _csv(document: Document) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    keys = (*_INVENTORY, "csv")
    named = text_at(document, keys)
    if named is None:
        return (), ()
    folder = Path(document.path).parent
    if not stays_inside(folder, named):
        text = "the file is not in the fleet's folder"
        return (), (document.problem(keys, text, "Name a file beside the fleet or below it.", codes.FLEET),)
    try:
        return read_csv(folder / named)
    except UsageError as error:
        return (), (document.problem(keys, error.message, error.remedy, codes.FLEET),)


def _doubles(rows: Iterable[Row]) -> Iterator[Problem]:
    # Some file systems do not tell capitals from small letters, and members have files called after them.
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.name.casefold(), row)
        if first is not row:
            spot = first.document.values.get(first.keys)
            where = f"{first.document.path}:{spot.line if spot else 1}"
            text = f"a second member is called {shown(row.name)}; the first is {first.name} in {where}"
            yield row.document.problem(row.keys, text, "Give each member a name of its own.", codes.FLEET)
