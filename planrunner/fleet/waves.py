"""Puts the members into waves: the canary, those that are named, the rest; everybody in exactly one."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from planrunner.fleet.model import Wave
from planrunner.fleet.outline import CANARY
from planrunner.fleet.tree import entries_at, texts_at
from planrunner.loading import codes
from planrunner.loading.document import shown, suggestion
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Problem

_WAVES: Keys = ("waves",)
_ONE = "all"
_MOST_NAMED = 5


def waves(document: Document, names: Sequence[str]) -> tuple[tuple[Wave, ...], tuple[Problem, ...]]:
    """The waves in their order, and what is wrong with them; ``names`` are all members."""
    sorting = _Sorting(document, names)
    return sorting.waves(), tuple(sorting.problems)


def matching(document: Document, keys: Keys, names: Sequence[str]) -> tuple[dict[str, Keys], list[Problem]]:
    """The members that the patterns at ``keys`` mean, each with its pattern's place; patterns that mean nobody."""
    found: dict[str, Keys] = {}
    problems = []
    for place, pattern in texts_at(document, keys):
        meant = [name for name in names if fnmatchcase(name, pattern)]
        if not meant and names:
            text = f"no member is called {shown(pattern)}"
            problems.append(
                document.problem(place, text, suggestion(pattern, names, label="Members"), codes.FLEET)
            )
        found |= {name: place for name in meant if name not in found}
    return found, problems


class _Sorting:
    def __init__(self, document: Document, names: Sequence[str]) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._names = names
        self._taken: dict[str, str] = {}

    def waves(self) -> tuple[Wave, ...]:
        canary, problems = matching(self._document, (CANARY,), self._names)
        self.problems += problems
        first = (Wave(name=CANARY, members=tuple(canary), canary=True),) if canary else ()
        left = [name for name in self._names if name not in canary]
        if at(self._document.tree, _WAVES) is None:
            return (*first, Wave(name=_ONE, members=tuple(left))) if left else first
        return (*first, *self._named(left))

    def _named(self, left: list[str]) -> list[Wave]:
        """The waves of the file among the members that are ``left``."""
        entries = entries_at(self._document, _WAVES)
        members: dict[int, tuple[str, ...]] = {}
        rest: int | None = None
        for index, (keys, entry) in enumerate(entries):
            self._check_name(keys, entry.get("name"), [e.get("name") for _, e in entries[:index]])
            if "members" in entry:
                members[index] = self._claimed(keys, str(entry.get("name")), left)
            elif rest is None:
                rest = index
            else:
                text = "a second wave without members; the first has all that are left"
                self._complain(keys, text, "Say whom this one has.")
        others = tuple(name for name in left if name not in self._taken)
        if rest is None and others:
            more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
            text = f"{', '.join(others[:_MOST_NAMED])}{more}: in no wave"
            remedy = "Name them, or add a wave without members for all that are left."
            self.problems.append(self._document.problem_with_name(_WAVES, text, remedy, codes.FLEET))
        return [
            Wave(
                name=str(entry.get("name")),
                members=others if index == rest else members.get(index, ()),
                manual=entry.get("approval") == "manual",
            )
            for index, (_, entry) in enumerate(entries)
        ]

    def _claimed(self, keys: Keys, wave: str, left: list[str]) -> tuple[str, ...]:
        found, problems = matching(self._document, (*keys, "members"), self._names)
        self.problems += problems
        for name, place in found.items():
            if name in self._taken:
                text = f"{name} is in the waves {self._taken[name]} and {wave}"
                self._complain(place, text, "Leave it in one of them.")
            elif name in left:
                self._taken[name] = wave
        return tuple(name for name in found if self._taken.get(name) == wave)

    def _check_name(self, keys: Keys, name: object, before: list[object]) -> None:
        if name == CANARY:
            text = "canary is the name of the wave of the canary"
            self._complain((*keys, "name"), text, "Give the wave another name.")
        elif name in before:
            text = f"a second wave is called {shown(str(name))}"
            self._complain((*keys, "name"), text, "Give each wave a name of its own.")

    def _complain(self, keys: Keys, message: str, remedy: str) -> None:
        self.problems.append(self._document.problem(keys, message, remedy, codes.FLEET))
