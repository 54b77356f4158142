"""Which files are meant: plans by name, by folder, by pattern."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.loading.source import LARGEST_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PLAN = re.compile(
    rb"""^["']?(?:apiVersion["']?\s*:\s*["']?planrunner/|kind["']?\s*:\s*["']?MigrationPlan|extends["']?\s*:)""",
    re.MULTILINE,
)
# It has a lint of its own, which knows the values of the plans that it names.
_FLEET = re.compile(rb"""^["']?kind["']?\s*:\s*["']?Fleet\b""", re.MULTILINE)


def plan_files(named: Iterable[str]) -> list[Path]:
    """The files in the order given, each once; UsageError where a folder or a pattern holds no plan."""
    found: dict[Path, None] = {}
    for name in named:
        found.update(dict.fromkeys(_files(name)))
    return list(found)


def _files(name: str) -> list[Path]:
    path = Path(name)
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):
        # A name that no file can have: whoever reads it says so.
        return [path]
    if folder:
        return _some(name, sorted(_plans_below(path)))
    if name != "-" and not there and any(sign in name for sign in "*?["):
        matched = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207  # a pattern may be absolute
        return _some(name, [match for match in matched if match.is_file()])
    return [path]


def _some(name: str, files: list[Path]) -> list[Path]:
    if not files:
        raise UsageError(
            f"{name}: there is no plan", remedy="Name a file, a folder that holds plans, or a pattern."
        )
    return files


def _plans_below(folder: Path) -> Iterator[Path]:
    """YAML files that say they are plans; a folder also holds values for variables, workflows and the like."""
    for path in folder.rglob("*.y*ml"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in {".yaml", ".yml"} and not hidden and path.is_file() and _is_plan(_head(path)):
            yield path


def _is_plan(head: bytes) -> bool:
    return bool(_PLAN.search(head)) and not _FLEET.search(head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_FILE)
    except OSError:
        # It is told when it is read as a plan.
        return b"kind: MigrationPlan"
