"""Reads YAML strictly: one document, no tags, anchors, merges or duplicates, bounded in every way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from planrunner.errors import UsageError
from planrunner.loading.codes import NOT_OURS, REPEATED_KEY, UNREADABLE
from planrunner.loading.complaints import told
from planrunner.loading.document import Document, Keys, Spot, dotted, excerpt, shown
from planrunner.loading.scalars import plain
from planrunner.loading.slips import impossible_escape, other_encoding
from planrunner.model import Json, Problem
from planrunner.reading import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yaml.events import Event

LARGEST_FILE = 1_000_000
_DEEPEST = 50
_MOST_NODES = 50_000
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class _Unreadable(Exception):
    """The text can't be read any further; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read(path: Path) -> Document:
    """Read a file; UsageError when there is none, every other fault is among the document's problems."""
    try:
        data = bounded(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{path}: cannot be read: {reason}", remedy="Check the file's name and its permissions."
        ) from error
    return parse_bytes(str(path), data)


def parse_bytes(path: str, data: bytes) -> Document:
    """Read what a file holds; whatever is wrong with it is among the document's problems."""
    if len(data) > LARGEST_FILE:
        text = f"the file is larger than {LARGEST_FILE:,} bytes"
        return _hopeless(path, "", Spot(), text, "Split the plan.")
    if (encoding := other_encoding(data)) is not None:
        return _hopeless(path, "", Spot(), f"the file is {encoding}", "Save it as UTF-8.")
    try:
        return parse(path, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        return _hopeless(
            path, before, _spot_after(before), "a byte that is not UTF-8", "Save the file as UTF-8."
        )


def parse(path: str, text: str) -> Document:
    """Read a text; whatever is wrong with it is among the document's problems."""
    reader = _Reader(path, text)
    try:
        tree = reader.document()
    except _Unreadable as stop:
        reader.problems.append(stop.problem)
        # What was read so far says nothing about what is missing below.
        return reader.result(None, told=frozenset({()}))
    return reader.result(tree, told=frozenset(reader.told))


def _hopeless(path: str, text: str, spot: Spot, message: str, remedy: str) -> Document:
    reader = _Reader(path, text)
    reader.complain((), spot, message, remedy, UNREADABLE)
    return reader.result(None, told=frozenset({()}))


def _spot_after(text: str) -> Spot:
    lines = LINE_BREAK.split(text)
    return Spot(line=len(lines), column=len(lines[-1]) + 1)


class _Reader:
    """Builds the tree from the parser's events, remembering where everything stood."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._lines = tuple(LINE_BREAK.split(text))
        self._events = self._parsed()
        self._nodes = 0
        self._values: dict[Keys, Spot] = {}
        self._names: dict[Keys, Spot] = {}
        self.problems: list[Problem] = []
        self.told: set[Keys] = set()

    def result(self, tree: Json, *, told: frozenset[Keys]) -> Document:
        return Document(
            path=self._path,
            tree=tree,
            lines=self._lines,
            values=self._values,
            names=self._names,
            problems=tuple(self.problems),
            told=told,
        )

    def document(self) -> Json:
        next(self._events)  # the stream's start
        first = next(self._events)
        if isinstance(first, StreamEndEvent):
            raise _Unreadable(self._problem((), Spot(), "the file is empty", "Start with: planrunner init"))
        tree = self._node(next(self._events), ())
        next(self._events)  # the document's end
        after = next(self._events)
        if isinstance(after, DocumentStartEvent):
            text = "a second document begins here; a file holds one"
            self.complain((), _spot(after), text, "Put it into a file of its own.")
        return tree

    def complain(
        self, keys: Keys, spot: Spot, message: str, remedy: str | None = None, code: str = NOT_OURS
    ) -> None:
        self.problems.append(self._problem(keys, spot, message, remedy, code))

    def _problem(
        self, keys: Keys, spot: Spot, message: str, remedy: str | None, code: str = UNREADABLE
    ) -> Problem:
        return Problem(
            path=self._path,
            line=spot.line,
            column=spot.column,
            where=dotted(keys),
            message=message,
            remedy=remedy,
            excerpt=excerpt(self._lines, spot),
            code=code,
        )

    def _parsed(self) -> Iterator[Event]:
        try:
            # The pure loader: the C one recurses on the C stack and crashes on deep nesting.
            yield from yaml.parse(self._text, Loader=yaml.SafeLoader)
        except ReaderError as error:
            spot = _spot_after(self._text[: error.position])
            code = error.character if isinstance(error.character, int) else ord(error.character)
            text, remedy = f"a character that YAML does not allow (U+{code:04X})", "Remove it."
            raise _Unreadable(self._problem((), spot, text, remedy)) from error
        except yaml.MarkedYAMLError as error:
            spot, message, remedy = told(error, self._lines)
            raise _Unreadable(self._problem((), spot, message, remedy)) from error
        except (ValueError, OverflowError, RecursionError) as error:
            # An escape such as "\UFFFFFFFF" makes the scanner's chr() fail.
            line, column = impossible_escape(self._lines) or (0, 0)
            spot = Spot(line=line + 1, column=column + 1)
            text, remedy = "an escape that names no character", "The last one is \\U0010FFFF."
            raise _Unreadable(self._problem((), spot, text, remedy)) from error

    def _node(self, event: Event, keys: Keys) -> Json:
        assert isinstance(event, NodeEvent)
        self._count(event, keys)
        spot = _spot(event)
        self._values[keys] = spot
        if isinstance(event, AliasEvent):
            self._fail(keys, spot, f"an alias (*{event.anchor}) is not allowed", "Write the value out.")
            return None
        if event.anchor is not None:
            self.complain(keys, spot, f"an anchor (&{event.anchor}) is not allowed", "Take it away.")
        tag = event.tag if isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent) else None
        value = self._content(event, keys)
        if tag is None:
            return value
        remedy = "Take it away; quotes make any value text."
        self._fail(keys, spot, f"a tag ({_short(tag)}) is not allowed", remedy)
        return None

    def _count(self, event: Event, keys: Keys) -> None:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            text = f"the file holds more than {_MOST_NODES:,} values"
            raise _Unreadable(self._problem(keys[:3], _spot(event), text, "Split the plan."))
        if len(keys) > _DEEPEST:
            text = f"nested more than {_DEEPEST} levels deep"
            raise _Unreadable(self._problem(keys[:3], _spot(event), text, "A plan needs no more than six."))

    def _content(self, event: Event, keys: Keys) -> Json:
        if isinstance(event, MappingStartEvent):
            return self._mapping(keys)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(keys)
        assert isinstance(event, ScalarEvent)
        return self._scalar(event, keys)

    def _scalar(self, event: ScalarEvent, keys: Keys) -> Json:
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in event.value):
            self._fail(keys, _spot(event), "a character that no text may hold", "Remove the escape.")
            return None
        if not event.implicit[0]:
            return event.value
        try:
            return plain(event.value)
        except ValueError as error:
            self._fail(keys, _spot(event), str(error), "Put it in quotes if it is text.")
            return None

    def _fail(self, keys: Keys, spot: Spot, message: str, remedy: str) -> None:
        """Tell what is wrong with a value, so that nothing else is told about it."""
        self.complain(keys, spot, message, remedy)
        self.told.add(keys)

    def _sequence(self, keys: Keys) -> list[Json]:
        items: list[Json] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event, (*keys, len(items))))
        return items

    def _mapping(self, keys: Keys) -> dict[str, Json]:
        result: dict[str, Json] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            name = self._name(event, keys)
            if name is None:
                self.told.add(keys)
                self._node(next(self._events), (*keys, ""))
            elif name in result:
                self._duplicate(event, (*keys, name))
            else:
                self._names[(*keys, name)] = _spot(event)
                result[name] = self._node(next(self._events), (*keys, name))
        return result

    def _duplicate(self, event: Event, keys: Keys) -> None:
        first = self._names[keys]
        text = f'"{keys[-1]}" is given twice; first on line {first.line}'
        self.complain(keys, _spot(event), text, "Keep one of them.", REPEATED_KEY)
        self._node(next(self._events), (*keys, ""))

    def _name(self, event: Event, keys: Keys) -> str | None:
        spot = _spot(event)
        if not isinstance(event, ScalarEvent):
            line = self._lines[spot.line - 1]
            self._node(event, (*keys, ""))
            if isinstance(event, AliasEvent):
                return None
            self.complain(keys, spot, *_complex_key(templated=line[: spot.column].endswith("{{")))
            return None
        if event.value == "<<" and event.implicit[0]:
            self.complain(keys, spot, "a merge key (<<) is not allowed", "Write the keys out.")
            return None
        value = self._node(event, (*keys, ""))
        if isinstance(value, str):
            return value
        if (*keys, "") not in self.told:
            self.complain(keys, spot, f"a key must be text, got {shown(value)}", "Put the key in quotes.")
        return None


def _complex_key(*, templated: bool) -> tuple[str, str]:
    if templated:
        return (
            "a value that begins with {{ must be in quotes",
            'Write "{{ vars.name }}"; without quotes YAML takes the braces for mappings.',
        )
    return "a key must be text, got a list or a mapping", "Look for a stray ? or a bracket before a colon."


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:40]


def _spot(event: Event) -> Spot:
    mark = event.start_mark
    return Spot(line=mark.line + 1, column=mark.column + 1) if mark else Spot()
