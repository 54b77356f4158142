"""Reads an inventory from a CSV file, each cell with its line and column."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.fleet.model import Row, Value
from planrunner.loading import codes
from planrunner.loading.document import Document, Spot, shown
from planrunner.loading.outline import NOUNS, PLAN_NAME, VARIABLE_NAME
from planrunner.loading.source import LARGEST_FILE
from planrunner.reading import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.loading.document import Keys
    from planrunner.model import Problem

_NAME = "name"


def read_csv(path: Path) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    """The rows of the file and what is wrong with it; UsageError when it can't be read."""
    text = _text(path)
    lines = tuple(text.splitlines())
    records = [(line, cells) for line, cells in _records(text) if cells]
    reader = _Reader(path, lines, records)
    rows = tuple(reader.rows())
    return rows, tuple(reader.problems)


def _text(path: Path) -> str:
    try:
        data = bounded(path, LARGEST_FILE)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not UTF-8"
        raise UsageError(
            f"{path}: cannot be read: {reason}", remedy="Name a CSV file in UTF-8, at most 1 MB large."
        ) from error


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=False)
    line = 1
    for cells in reader:
        yield line, [cell.strip() for cell in cells]
        line = reader.line_num + 1


class _Reader:
    def __init__(self, path: Path, lines: tuple[str, ...], records: list[tuple[int, list[str]]]) -> None:
        self.problems: list[Problem] = []
        self._records = records
        self._head_line, self._head = records[0] if records else (1, [])
        columns = {name: index for index, name in enumerate(self._head)}
        values: dict[Keys, Spot] = {(): Spot()}
        names: dict[Keys, Spot] = {}
        for number, (line, _) in enumerate(records[1:]):
            values[(number,)] = Spot(line=line)
            for name, index in columns.items():
                values[number, name] = Spot(line=line, column=_column(lines, line, index))
                names[number, name] = Spot(
                    line=self._head_line, column=_column(lines, self._head_line, index)
                )
        self._document = Document(path=str(path), tree=None, lines=lines, values=values, names=names)

    def rows(self) -> Iterator[Row]:
        """Every row that can be used."""
        if self._head_faults():
            return
        for number, (line, cells) in enumerate(self._records[1:]):
            if len(cells) != len(self._head):
                text = f"{len(cells)} cells, but the first line names {len(self._head)} columns"
                self._complain(Spot(line=line), text, "Quote cells that hold a comma.")
                continue
            row = dict(zip(self._head, cells, strict=True))
            if re.fullmatch(PLAN_NAME, row[_NAME]) is None:
                text = f"expected {NOUNS[PLAN_NAME]}, got {shown(row[_NAME])}"
                self.problems.append(
                    self._document.problem((number, _NAME), text, "For example: shop-001", codes.FLEET)
                )
                continue
            yield self._row(number, row)

    def _row(self, number: int, row: dict[str, str]) -> Row:
        values = {
            name: Value(text=cell, document=self._document, keys=(number, name))
            for name, cell in row.items()
            if name != _NAME and cell
        }
        return Row(name=row[_NAME], document=self._document, keys=(number, _NAME), values=values)

    def _head_faults(self) -> bool:
        before = len(self.problems)
        spot = Spot(line=self._head_line)
        if _NAME not in self._head:
            text = "the first line names no column called name"
            self._complain(spot, text, "The first line names the columns: name, and variables of the plan.")
        for name in dict.fromkeys(self._head):
            if self._head.count(name) > 1:
                self._complain(spot, f"two columns are called {shown(name)}", "Keep one of them.")
            elif re.fullmatch(VARIABLE_NAME, name) is None:
                text = f"expected {NOUNS[VARIABLE_NAME]} as a column, got {shown(name)}"
                self._complain(spot, text, "Call it as the plan calls its variable.")
        if len(self._records) == 1:
            self._complain(spot, "there is no row below the first line", "Write a line for each member.")
        return len(self.problems) > before

    def _complain(self, spot: Spot, message: str, remedy: str) -> None:
        self.problems.append(self._document.problem_at(spot, message, remedy, codes.FLEET))


def _column(lines: tuple[str, ...], line: int, index: int) -> int:
    """Where a cell begins; the line's begin where quotes make that hard to tell."""
    text = lines[line - 1] if line <= len(lines) else ""
    cells = text.split(",")
    if '"' in text or index >= len(cells):
        return 1
    return sum(len(cell) + 1 for cell in cells[:index]) + 1
