"""What became of a fleet, a line each, only ever appended to: asked, begun, ended, approved."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.masking import hushed
from planrunner.reading import regular
from planrunner.shown import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class What(Enum):
    """What a line tells."""

    ASKED = "asked"
    BEGUN = "begun"
    ENDED = "ended"
    APPROVED = "approved"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line. ``about`` is a member, the wave that was approved, or the fleet of which a run was asked.

    ``until`` is the step up to which a run was asked, begun or approved; None means to the end.
    ``code`` is the exit code of a run that ended, negative for the signal that ended it; ``told`` its error.
    ``digest`` is the wave's when it was approved, by ``who`` and why.
    """

    at: datetime
    what: What
    about: str
    code: int | None = None
    told: str | None = None
    digest: str | None = None
    who: str | None = None
    why: str | None = None
    until: str | None = None

    def to_json(self) -> str:
        """The entry as one line without its newline; what is None is left out."""
        tree = {
            "at": self.at.isoformat(timespec="milliseconds"),
            "what": self.what.value,
            "about": self.about,
        }
        rest = {name: getattr(self, name) for name in ("code", "told", "digest", "who", "why", "until")}
        tree |= {name: value for name, value in rest.items() if value is not None}
        return visible(hushed(json.dumps(tree, ensure_ascii=False)))


@dataclass(kw_only=True)
class Past:
    """What the journal says of one member; ``until`` is how far its last run was to go, None to the end."""

    begun: int = 0
    until: str | None = None
    last_begun: datetime | None = None
    last_ended: datetime | None = None
    code: int | None = None
    told: str | None = None
    worked: float = 0.0

    @property
    def ended(self) -> bool:
        """True when its last run that began has ended on record."""
        return self.last_ended is not None


@dataclass(kw_only=True)
class Chronicle:
    """The journal, folded: what it says of each member, and which waves were approved as they stood, and how far.

    ``until`` is how far the fleet's last run was to go, None to the end.
    """

    members: dict[str, Past] = field(default_factory=dict)
    approved: dict[tuple[str, str], set[str | None]] = field(default_factory=dict)
    until: str | None = None

    def of(self, member: str) -> Past:
        """What is known of a member."""
        return self.members.get(member) or Past()

    def approves(self, wave: str, digest: str, until: str | None = None) -> bool:
        """True when the wave was approved with these members, wholly or up to ``until``."""
        return not self.approved.get((wave, digest), set()).isdisjoint({None, until})

    def approved_until(self, wave: str, digest: str) -> tuple[str, ...]:
        """The steps up to which the wave was approved with these members, in alphabetical order."""
        return tuple(sorted(step for step in self.approved.get((wave, digest), ()) if step is not None))


def append(path: Path, entry: Entry) -> None:
    """Append a line and see it on the disk; several processes may. StateUnfit when it can't be written."""
    line = f"{entry.to_json()}\n".encode()
    try:
        descriptor = regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            # A kill may have torn the last line; this one must not be glued to it.
            torn = bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StateUnfit(
            f"cannot write {path}: {error.strerror}", remedy="Make the fleet's folder writable."
        ) from error
    failpoint("fleet.journalled")


def chronicle(path: Path) -> Chronicle:
    """The journal as a whole; an empty one where there is none."""
    found = Chronicle()
    for entry in _read(path):
        _fold(found, entry)
    return found


def _read(path: Path) -> Iterator[Entry]:
    try:
        descriptor = regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateUnfit(
            f"cannot read {path}: {error.strerror}", remedy="Make the fleet's folder readable."
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        yield from _parsed(file)


def _parsed(lines: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of ``lines``; one that a kill tore is passed over."""
    for line in lines:
        try:
            tree: dict[str, Any] = json.loads(line)
            at = datetime.fromisoformat(tree.pop("at"))
            yield Entry(**{**tree, "at": at, "what": What(tree["what"])})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _fold(found: Chronicle, entry: Entry) -> None:
    if entry.what is What.APPROVED:
        found.approved.setdefault((entry.about, entry.digest or ""), set()).add(entry.until)
        return
    if entry.what is What.ASKED:
        found.until = entry.until
        return
    past = found.members.setdefault(entry.about, Past())
    if entry.what is What.BEGUN:
        past.begun += 1
        past.until = entry.until
        past.last_begun, past.last_ended = entry.at, None
        past.code = past.told = None
        return
    if past.last_begun is not None and past.last_ended is None:
        past.worked += max(0.0, (entry.at - past.last_begun).total_seconds())
    past.last_ended, past.code, past.told = entry.at, entry.code, entry.told
