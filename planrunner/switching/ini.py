"""Rewrites one entry of PgBouncer's configuration, and nothing else of the file.

The forms are those of pgbouncer.ini(5): ``[databases]`` holds ``name = key=value …``; values may stand in
single quotes, doubled inside; names in double quotes; ``%include FILE`` goes on in another file, in the same
section; lines that begin with ``;`` or ``#`` are comments.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.reading import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FALLBACK = "*"
_ENTRY = re.compile(r'\s*(?P<name>"(?:[^"]|"")*"|[\w.*-]+)[ \t]*=[ \t]*(?P<value>.*?)\s*\Z', re.ASCII)
_SECTION = re.compile(r"\s*\[(?P<name>[^\]\n]*)\]")
_INCLUDE = re.compile(r"\s*%include[ \t]+(?P<file>.*?)\s*\Z")
_PAIR = re.compile(r"\s*(?P<key>\w+)\s*=\s*(?P<value>'(?:[^']|'')*'|[^\s']*)")
_BARE = re.compile(r"[\w.:/@%+-]+", re.ASCII)
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_DEEPEST = 10
_LARGEST = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry of ``[databases]``: the line of the file, and where in it the connection string stands."""

    file: Path
    number: int
    name: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """A file with its new text; ``changed`` is False when it says already what was wished."""

    file: Path
    text: str
    changed: bool


def rewritten(config: Path, database: str, wish: Mapping[str, str]) -> Change:
    """The file that holds the database's entry, with the pairs of ``wish`` in it; nothing is written yet.

    Where only the fallback ``*`` serves the database, an entry of its own is put before it, so that other
    databases stay where they are. StepFailed when there is no entry, or two.
    """
    found = [line for line in _entries(config) if line.name in (database, FALLBACK)]
    own = [line for line in found if line.name == database]
    if len(own) > 1:
        places = ", ".join(f"{line.file}:{line.number + 1}" for line in own)
        raise StepFailed(f"{database} stands twice in [databases]: {places}", remedy="Remove one of them.")
    if not found:
        raise StepFailed(
            f"{config} has no entry {database} in [databases]",
            remedy="Name the entry that applications connect to, as it is written there.",
        )
    line = (own or found)[0]
    lines = _lines(line.file)
    former = lines[line.number]
    value = _with(former[line.start : line.end], wish, line)
    if own:
        lines[line.number] = former[: line.start] + value + former[line.end :]
    else:
        ending = former[len(former.rstrip("\r\n")) :] or "\n"
        lines.insert(line.number, f"{quoted_name(database)} = {value}{ending}")
    return Change(file=line.file, text="".join(lines), changed=not own or lines[line.number] != former)


def write(change: Change) -> None:
    """Put the new text in the file's place, whole or not at all; mode and owner stay."""
    if not change.changed:
        return
    # The link stays a link.
    path = change.file.resolve()
    try:
        was = path.stat()
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), was.st_mode & 0o7777)
                file.write(change.text)
                file.flush()
                os.fsync(file.fileno())
            failpoint("switch.before_replace")
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise StepFailed(
            f"{path} can't be rewritten: {error.strerror or error}",
            remedy="Run as its owner, with the right to write in its folder; or change it by config: {command: …}.",
        ) from error


def unwritable(path: Path) -> str | None:
    """Why the file could not be rewritten, None when nothing speaks against it."""
    real = path.resolve()
    if not os.access(real.parent, os.W_OK):
        return f"no right to write in {real.parent}"
    if real.stat().st_uid != os.geteuid() != 0:
        return f"{real} belongs to another user, and would not any more"
    return None


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, kw_only=True)
class _Position:
    section: str
    depth: int = 0


def _entries(config: Path) -> Iterator[Line]:
    found: list[Line] = []
    _read(config, _Position(section=""), found)
    yield from found


def _read(path: Path, position: _Position, found: list[Line]) -> _Position:
    if position.depth > _DEEPEST:
        raise StepFailed(f"{path} is included by itself", remedy="Take the %include out.")
    for number, line in enumerate(_lines(path)):
        if line.lstrip()[:1] in {";", "#"}:
            continue
        if match := _INCLUDE.match(line):
            # PgBouncer takes the name as it is: relative to where it was started, which for us is the file.
            inner = _read(path.parent / match["file"], replace(position, depth=position.depth + 1), found)
            position = replace(position, section=inner.section)
        elif match := _SECTION.match(line):
            position = replace(position, section=match["name"])
        elif position.section == "databases" and (match := _ENTRY.match(line)):
            span = match.span("value")
            found.append(
                Line(file=path, number=number, name=_name(match["name"]), start=span[0], end=span[1])
            )
    return position


def _lines(path: Path) -> list[str]:
    try:
        data = bounded(path, _LARGEST)
    except OSError as error:
        raise StepFailed(
            f"{path} can't be read: {error.strerror or error}", remedy="Check the path and its rights."
        ) from error
    if len(data) > _LARGEST:
        raise StepFailed(f"{path} is far too large for a configuration", remedy="Check the path.")
    # Only line feeds end a line there.
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "surrogateescape"))


def _name(written: str) -> str:
    return written[1:-1].replace('""', '"') if written.startswith('"') else written


def quoted_name(name: str) -> str:
    """The name as an entry or a console command writes it."""
    return name if _NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def _with(value: str, wish: Mapping[str, str], line: Line) -> str:
    """The connection string with the pairs of ``wish``: in place where there are such keys, else at the end."""
    left = dict(wish)
    made, position = "", 0
    while position < len(value):
        match = _PAIR.match(value, position)
        if match is None or match.end() == position:
            if value[position:].strip():
                raise StepFailed(
                    f"{line.file}:{line.number + 1}: the entry {line.name} is no list of key=value",
                    remedy="Write host=… port=… dbname=…, values with spaces in single quotes.",
                )
            break
        key = match["key"]
        if key in wish:
            left.pop(key, None)
            made += value[position : match.start("value")] + _quoted(wish[key])
        else:
            made += match[0]
        position = match.end()
    added = [f"{key}={_quoted(text)}" for key, text in left.items()]
    return " ".join([made, *added]) if made else " ".join(added)


def _quoted(text: str) -> str:
    return text if _BARE.fullmatch(text) else "'" + text.replace("'", "''") + "'"
