"""A file as its reader saw it: the tree of values, and where in the text each of them stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from json import dumps
from typing import TYPE_CHECKING, TypeAlias

from planrunner.masking import HIDDEN, hushed
from planrunner.model import Json, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The way from the root to a value: keys of mappings and indexes of lists.
Keys: TypeAlias = tuple[str | int, ...]

_LONGEST_EXCERPT = 160
_LONGEST_QUOTE = 60
# Beyond these a look for passwords, or for what was meant, would take too long.
_LONGEST_LINE = 2_000
_MOST_NAMES = 200
_MOST_LISTED = 16
# An excerpt is shown on terminals and in CI logs; these are passwords in the wrong place.
_PASSWORDS = (
    re.compile(r"://[^/@]*?:(.*)@"),
    # A key of a URI that hides behind percent signs may be one of them.
    re.compile(r"[?&][^=&\s]*%[^=&\s]*=(.*)"),
    re.compile(r"""(?i)\w*(?:secret|token|scram_client_key|scram_server_key)["']?\s*=\s*(.*)"""),
    # Also misspelt: p…w…d.
    re.compile(r"""(?i)(?:p\w{0,12}w\w{0,12}d|passphrase)\w*["']?\s*=\s*(.*)"""),
    re.compile(r"""(?i)(?:p\w{0,12}w\w{0,12}d|passphrase|secret)["']?\s*:\s*(?![\s{])(.*)"""),
)


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A place in a text; line and column count from 1.

    ``origin`` is the file where it stands and ``keys`` the way to it there, when that is not the document's own:
    a plan with a base is put together from several.
    """

    line: int = 1
    column: int = 1
    origin: Document | None = None
    keys: Keys = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML file. ``told`` holds the places whose fault is among ``problems`` already."""

    path: str
    tree: Json
    lines: tuple[str, ...]
    values: Mapping[Keys, Spot]
    names: Mapping[Keys, Spot]
    problems: tuple[Problem, ...] = ()
    told: frozenset[Keys] = frozenset()

    def problem(self, keys: Keys, message: str, remedy: str | None = None, code: str = "") -> Problem:
        """A problem with the value at ``keys``, or with the nearest value around it."""
        return self._problem(keys, self._around(keys), message, remedy, code)

    def problem_with_name(
        self, keys: Keys, message: str, remedy: str | None = None, code: str = ""
    ) -> Problem:
        """A problem with the key itself, not with its value."""
        spot = self.names.get(keys)
        return self._problem(keys, (keys, spot) if spot else self._around(keys), message, remedy, code)

    def problem_at(self, spot: Spot, message: str, remedy: str | None = None, code: str = "") -> Problem:
        """A problem with a place that holds no value, such as a comment."""
        return self._problem((), ((), spot), message, remedy, code)

    def _problem(
        self, keys: Keys, found: tuple[Keys, Spot], message: str, remedy: str | None, code: str
    ) -> Problem:
        around, spot = found
        origin = spot.origin or self
        return Problem(
            path=origin.path,
            line=spot.line,
            column=spot.column,
            where=dotted((*spot.keys, *keys[len(around) :]) if spot.origin else keys),
            message=message,
            remedy=remedy,
            excerpt=None if "password" in keys[:3] else excerpt(origin.lines, spot),
            code=code,
        )

    def _around(self, keys: Keys) -> tuple[Keys, Spot]:
        """The nearest value around ``keys`` whose place is known, and that place."""
        around = (keys[:length] for length in range(len(keys), -1, -1))
        return next(((k, self.values[k]) for k in around if k in self.values), ((), Spot()))


def dotted(keys: Keys) -> str:
    """The place as people write it: ``steps[3].with.jobs``."""
    # What stands under a key that can't be one has an empty name.
    named = (key for key in keys if key != "")
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key[:_LONGEST_QUOTE]}" for key in named)
    return _printable(text.removeprefix("."))


def excerpt(lines: tuple[str, ...], spot: Spot) -> str | None:
    """The line of ``spot`` without passwords; None where a caret below it would point astray."""
    if spot.line > len(lines):
        return None
    line = lines[spot.line - 1]
    if len(line) > _LONGEST_LINE:
        return None
    hidden = len(line)
    for pattern in _PASSWORDS:
        if match := pattern.search(line, 0, hidden):
            hidden = match.start(1)
    clean = line if hidden == len(line) else f"{line[:hidden]}***"
    if not line.strip() or spot.column > min(hidden + 1, _LONGEST_EXCERPT):
        return None
    return _printable(clean[:_LONGEST_EXCERPT])


def _printable(text: str) -> str:
    # Control characters would reach the reader's terminal.
    return "".join(char if char.isprintable() else " " for char in text)


def shown(value: Json) -> str:
    """A value as messages quote it; a sensitive one, or a text around it, as ``***``."""
    if isinstance(value, str) and hushed(value) != value:
        # Cut or escaped it would no longer be known as what is to be masked.
        return HIDDEN
    if isinstance(value, str):
        cut = value if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]}…"
        return dumps(cut, ensure_ascii=not cut.isprintable())
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
    return "a list" if isinstance(value, list | tuple) else "a mapping"


def suggestion(word: str, known: Iterable[str], *, label: str) -> str:
    """``Did you mean "jobs"?`` where one is near, then what there is."""
    names = list(known)
    searched = names if len(names) <= _MOST_NAMES else []
    near = get_close_matches(word[:_LONGEST_QUOTE], searched, n=1, cutoff=0.6) or get_close_matches(
        word[:_LONGEST_QUOTE].lower(), searched, n=1, cutoff=0.6
    )
    if near and len(names) > _MOST_LISTED:
        return f'Did you mean "{near[0]}"?'
    lead = f'Did you mean "{near[0]}"? ' if near else ""
    more = ", …" if len(names) > _MOST_LISTED * 4 else ""
    return f"{lead}{label}: {', '.join(names[: _MOST_LISTED * 4]) or 'none'}{more}."
