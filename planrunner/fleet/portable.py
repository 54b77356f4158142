"""What a member's run takes along to another machine, and what of its plan can't go there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.fleet.errand import Parcel
from planrunner.fleet.tree import text_at
from planrunner.loading import codes
from planrunner.loading.document import shown
from planrunner.loading.flow_checks import plan_files
from planrunner.loading.overlays import layers
from planrunner.loading.places import at
from planrunner.loading.pool import pool_faults
from planrunner.loading.references import stays_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

TARGET = "target"
_HOME = re.compile(r"target|s3://[^/\s]+/(\S*/)?")
_ELSEWHERE = (
    "Keep it in env, aws_secretsmanager or aws_ssm, or ask for it by a command that every machine has."
)
_RUNNING = frozenset({"command"})
NEEDS_STATE = (
    "the members' states lie in a folder of this machine, which no worker reaches",
    "Add state: target, or state: s3://BUCKET/PREFIX/.",
)


def fleet_faults(document: Document) -> Iterator[Problem]:
    """What is wrong with a fleet's ``pool`` and ``state``, beyond its schema."""
    yield from pool_faults(document, document.tree)
    state = text_at(document, ("state",))
    if state is None and at(document.tree, ("pool",)) is not None:
        yield document.problem_with_name(("pool",), *NEEDS_STATE, codes.FLEET)
    if state is not None and not _HOME.fullmatch(state):
        text = f"expected target or s3://BUCKET/PREFIX/, got {shown(state)}"
        yield document.problem(("state",), text, "For example: s3://states/shops/", codes.FLEET)


def plan_faults(document: Document, tree: Json, folder: Path) -> Iterator[Problem]:
    """What of a member's plan is of this machine alone."""
    if at(tree, ("pool",)) is not None:
        text = "a member that asks a pool for workers waits for those that other members hold"
        remedy = "Take pool out of the plan; with the fleet's own its members run on the workers as a whole."
        yield document.problem_with_name(("pool",), text, remedy, codes.FLEET)
    for keys, value in _below(tree, ()):
        if keys[-2:] == ("secret", "file"):
            text = "the secret lies in a file of this machine, and the member may run on another"
            yield document.problem(keys, text, _ELSEWHERE, codes.FLEET)
        elif "secret" in keys and "command" in keys and _names_file(value, folder):
            text = f"{shown(value)} is a file beside the plan, which does not travel with a secret's command"
            remedy = "Give the whole path of a program that every machine has."
            yield document.problem(keys, text, remedy, codes.FLEET)
        elif keys[-2:] == ("pgbouncer", "config"):
            text = "the file is PgBouncer's on this machine, and the member may run on another"
            yield document.problem(keys, text, "Change it by a command: config: {command: …}.", codes.FLEET)


def files_of(plan: Path, tree: Json) -> tuple[str, ...]:
    """The names, from the plan's folder, of the files that a plan without a problem refers to; secrets' are not."""
    folder = plan.parent
    found = {path.relative_to(folder).as_posix() for path in layers(plan)}
    for keys, text in _below(tree, ()):
        if "secret" in keys:
            continue
        # A hook's words: its program, and what it reads.
        if keys[-1] == "ca" or _RUNNING.intersection(map(str, keys[-2:])):
            found |= {Path(text).as_posix()} if _names_file(text, folder) else set()
    steps = at(tree, ("steps",))
    for index in range(len(steps) if isinstance(steps, list) else 0):
        found |= {name for _, name in plan_files(tree, index)}
    return tuple(sorted(found))


def packed(plan: Path, names: tuple[str, ...]) -> tuple[Parcel, ...]:
    """The files as they are now."""
    paths = {name: plan.parent / name for name in names}
    return tuple(
        Parcel(name=name, mode=path.stat().st_mode & 0o700, content=path.read_bytes())
        for name, path in paths.items()
    )


def _names_file(text: str, folder: Path) -> bool:
    if not text or Path(text).is_absolute() or not stays_inside(folder, text):
        return False
    return (folder / text).is_file()


def _below(value: Json, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Every text with its place; a command that is one text word by word."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _below(inner, (*keys, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _below(inner, (*keys, index))
    elif isinstance(value, str):
        yield from ((keys, word) for word in (_words(value) if keys[-1:] == ("command",) else (value,)))


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []
