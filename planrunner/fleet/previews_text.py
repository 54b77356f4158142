"""The preview of a fleet as text and as Markdown: a line a member, sums a wave, what restarts and what is destroyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.fleet.previews import by_wave, destroyed, size_of, sums
from planrunner.fleet.table import head_of
from planrunner.shown import in_one_line
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planrunner.fleet.previews import MemberPreview, Sums

HEAD = ("MEMBER", "WAVE", "ACTIONS", "TABLES", "ROWS", "SIZE", "RESTARTS", "DESTRUCTIVE", "FAILS", "")
_MOST_PROBLEMS = 3


def rows(previews: Sequence[MemberPreview]) -> list[tuple[str, ...]]:
    """The cells of every member's line, of every wave's sum and of the whole's."""
    lines = [_row(one) for one in previews]
    waves = by_wave(previews)
    if len(waves) > 1:
        lines += [_sum_row("", wave, sums(members)) for wave, members in waves.items()]
    return [*lines, _sum_row("all", "", sums(previews))]


def below(previews: Sequence[MemberPreview]) -> list[str]:
    """What stands below the table: the sums in words, restarts, what is destroyed, what stops members."""
    found = sums(previews)
    lines = [_headline(found)]
    lines += [f"restarted once: {server}" for server in found.restarts]
    lines += [f"destructive: {text} ({count} members)" for text, count in destroyed(previews).most_common()]
    lines += [line for one in previews for line in _stopped(one)]
    return [in_one_line(line) for line in lines]


def to_markdown(fleet: str, previews: Sequence[MemberPreview], safe: Callable[[str], str]) -> str:
    """A page for a pull request; ``safe`` makes text of it that is no markup."""
    table = ["| " + " | ".join(("Member", "Wave", "Actions", "Tables", "Rows", "Size", *_LAST)) + " |"]
    table.append("|" + "---|" * len(HEAD))
    table += ["| " + " | ".join(map(safe, row)) + " |" for row in rows(previews)]
    lines = [f"- {safe(line)}" for line in below(previews)]
    return (
        "\n".join((f"## Fleet {safe(fleet)}: {safe(_headline(sums(previews)))}", "", *table, "", *lines))
        + "\n"
    )


_LAST = ("Restarts", "Destructive", "Failing checks", "Error")


def _row(one: MemberPreview) -> tuple[str, ...]:
    return (
        one.name,
        one.wave,
        _count(None if one.tree is None else len(one.actions)),
        _count(one.figure("tables")),
        _count(one.figure("rows")),
        _size(size_of(one)),
        str(len(one.restarts) or ""),
        str(len(one.destructive) or ""),
        str(one.failures or ""),
        head_of(one.error),
    )


def _sum_row(name: str, wave: str, found: Sums) -> tuple[str, ...]:
    return (
        name,
        wave,
        f"{found.actions:,}",
        f"{found.tables:,}",
        f"{found.rows:,}",
        human_bytes(found.bytes) + ("+" if found.unknown else ""),
        str(len(found.restarts) or ""),
        str(found.destructive or ""),
        str(found.failures or ""),
        f"{found.members} members",
    )


def _headline(found: Sums) -> str:
    size = human_bytes(found.bytes)
    more = f" and what {found.unknown} members could not tell" if found.unknown else ""
    words = [
        f"{found.changed} of {found.members} members would change",
        f"{size}{more} in {found.tables:,} tables, about {found.rows:,} rows",
        _counted(len(found.restarts), "server restarts", "servers restart"),
        _counted(found.destructive, "destructive action", "destructive actions"),
        _counted(found.failures, "check fails", "checks fail"),
    ]
    words += [f"{found.errors} members could not be looked at"] if found.errors else []
    return "; ".join(words)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count or 'no'} {one if count == 1 else many}"


def _stopped(one: MemberPreview) -> Iterator[str]:
    problems = one.problems
    for text in problems[:_MOST_PROBLEMS]:
        yield f"{one.name}: {text.partition(chr(10))[0]}"
    if len(problems) > _MOST_PROBLEMS:
        yield f"{one.name}: {len(problems) - _MOST_PROBLEMS} more"


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return "?" if value is None else human_bytes(value)
