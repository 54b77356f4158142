"""Frozen values: a fleet, its waves and members, and where a member's value was written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.loading.variables import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from planrunner.loading.document import Document, Keys
    from planrunner.model import DaskPool


@dataclass(frozen=True, kw_only=True)
class Value:
    """A variable's value as ``--var`` takes it, and where it stands: ``keys`` end with the variable's name."""

    text: str
    document: Document
    keys: Keys

    @property
    def origin(self) -> Origin:
        """The place for whoever complains of the value."""
        return Origin(document=self.document, keys=self.keys)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A member as its inventory has it."""

    name: str
    document: Document
    keys: Keys
    values: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A member before its plan was looked at; ``plan`` is None where the file names none that can be used."""

    row: Row
    plan: Path | None
    plan_keys: Keys
    values: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Members that are worked on together, by name. ``manual``: it begins only when somebody approved it."""

    name: str
    members: tuple[str, ...]
    manual: bool = False
    canary: bool = False

    @property
    def digest(self) -> str:
        """What an approval of the wave is bound to: who is in it."""
        return hashlib.sha256("\n".join((self.name, *sorted(self.members))).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Member:
    """One database of the fleet: its plan, the values of the plan's variables, the ids of the plan's steps.

    ``files`` are what the plan consists of and refers to, by their names from its folder.
    """

    name: str
    wave: str
    plan: Path
    variables: Mapping[str, str]
    steps: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def up_to(self, last: str | None) -> tuple[str, ...]:
        """The ids of its steps up to ``last``, all of them where that is None; ValueError when it has no such step."""
        return self.steps if last is None else self.steps[: self.steps.index(last) + 1]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet that can be worked on; ``members`` stand in the order of their waves.

    ``state`` is where their states are, None for files of the fleet's folder; ``pool`` who performs their runs.
    """

    name: str
    path: Path
    digest: str
    waves: tuple[Wave, ...]
    members: tuple[Member, ...]
    max_parallel: int
    stop_after: int
    state: str | None = None
    pool: DaskPool | None = None

    def member(self, name: str) -> Member | None:
        """The member of that name, if there is one."""
        return next((member for member in self.members if member.name == name), None)

    def wave(self, name: str) -> Wave | None:
        """The wave of that name, if there is one."""
        return next((wave for wave in self.waves if wave.name == name), None)

    def of(self, wave: Wave) -> tuple[Member, ...]:
        """The members of a wave."""
        return tuple(member for member in self.members if member.wave == wave.name)
