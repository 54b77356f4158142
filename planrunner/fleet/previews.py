"""What a run of the whole fleet would do: each member's preview, and the sums over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from planrunner.model import Json

_SIZES = ("heap_bytes", "toast_bytes", "index_bytes")


@dataclass(frozen=True, kw_only=True)
class MemberPreview:
    """One member's preview. ``tree`` is its JSON, None where it could not be made; ``error`` says why.

    ``server`` is what a restart restarts: an RDS instance by name, else the source's system identifier.
    """

    name: str
    wave: str
    server: str = ""
    tree: Any = None
    error: str | None = None

    @property
    def actions(self) -> tuple[Any, ...]:
        """Everything that a run would do, in its order."""
        steps = self.tree["steps"] if self.tree is not None else ()
        return tuple(action for step in steps for action in step["actions"])

    @property
    def restarts(self) -> tuple[str, ...]:
        """The actions that restart the server."""
        return tuple(action["summary"] for action in self.actions if action["restarts"])

    @property
    def destructive(self) -> tuple[str, ...]:
        """The actions that destroy something."""
        return tuple(action["summary"] for action in self.actions if action["destructive"])

    @property
    def failures(self) -> int:
        """How many checks fail, and how many steps can't be planned."""
        return int(self.tree["failures"]) if self.tree is not None else 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What stops it: its error, the steps that can't be planned, the checks that fail and nobody mends."""
        if self.tree is None:
            return (self.error or "",)
        return tuple(_problems(self.tree["steps"]))

    def figure(self, *names: str) -> int | None:
        """The sum of these estimates; None where the preview did not tell one that is to be told."""
        if self.tree is None:
            return None
        told = {e["name"]: e for step in self.tree["steps"] for e in step["estimates"]}
        if not told:
            # Nothing is left to be copied, or nobody could measure it.
            return None if any(_unmeasured(step) for step in self.tree["steps"]) else 0
        found = [told[name]["low"] for name in names if name in told]
        return None if len(found) < len(names) or None in found else int(sum(found))


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The sums over some members. ``restarts`` counts each server once; ``unknown`` members told no size."""

    members: int
    changed: int
    actions: int
    tables: int
    rows: int
    bytes: int
    unknown: int
    restarts: tuple[str, ...]
    destructive: int
    failures: int
    errors: int


def sums(previews: Sequence[MemberPreview]) -> Sums:
    """Add up what the members told."""
    sizes = [one.figure(*_SIZES) for one in previews]
    return Sums(
        members=len(previews),
        changed=sum(bool(one.actions) for one in previews),
        actions=sum(len(one.actions) for one in previews),
        tables=_sum(one.figure("tables") for one in previews),
        rows=_sum(one.figure("rows") for one in previews),
        bytes=_sum(sizes),
        unknown=sizes.count(None),
        restarts=tuple(dict.fromkeys(one.server for one in previews if one.restarts)),
        destructive=sum(len(one.destructive) for one in previews),
        failures=sum(one.failures for one in previews),
        errors=sum(one.tree is None for one in previews),
    )


def size_of(preview: MemberPreview) -> int | None:
    """The bytes that are left to be copied, indexes too."""
    return preview.figure(*_SIZES)


def destroyed(previews: Iterable[MemberPreview]) -> Counter[str]:
    """Each destructive action with the number of members that have it."""
    return Counter(summary for one in previews for summary in one.destructive)


def by_wave(previews: Sequence[MemberPreview]) -> dict[str, list[MemberPreview]]:
    """The previews of each wave, in order."""
    found: dict[str, list[MemberPreview]] = {}
    for one in previews:
        found.setdefault(one.wave, []).append(one)
    return found


def as_json(preview: MemberPreview) -> dict[str, Json]:
    """One member for programs."""
    return {
        "name": preview.name,
        "wave": preview.wave,
        "server": preview.server,
        "bytes": size_of(preview),
        "rows": preview.figure("rows"),
        "tables": preview.figure("tables"),
        "restarts": list(preview.restarts),
        "destructive": list(preview.destructive),
        "failures": preview.failures,
        "error": preview.error,
        "preview": preview.tree,
    }


def sums_json(found: Sums) -> dict[str, Json]:
    """The sums for programs."""
    return {**vars(found), "restarts": list(found.restarts)}


def _sum(values: Iterable[int | None]) -> int:
    return sum(value for value in values if value is not None)


def _unmeasured(step: Any) -> bool:
    return step["uses"] == "snapshot" and bool(step["actions"] or step["problem"])


def _problems(steps: Any) -> Iterator[str]:
    for step in steps:
        if step["problem"] is not None:
            yield f"{step['id']}: {step['problem']}"
        for finding in step["findings"]:
            if finding["mark"] == "fail" and not finding["ignored"] and not finding["mended_by_step"]:
                yield f"{step['id']}: {finding['text']}"
