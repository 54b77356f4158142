"""Puts a plan together from its files: an overlay names its base with ``extends`` and says what differs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from planrunner.errors import UsageError
from planrunner.loading.codes import OVERLAY, coded
from planrunner.loading.document import Document, shown, suggestion
from planrunner.loading.merging import merged
from planrunner.loading.overlay_schema import EXTENDS
from planrunner.loading.references import stays_inside
from planrunner.loading.source import read

if TYPE_CHECKING:
    from planrunner.model import Json, Problem

# Nobody can follow more in a review.
_MOST_LAYERS = 5


def assembled(path: Path) -> Document:
    """The plan in ``path`` with its bases merged below it; every place leads to the file where it stands.

    Without a tree when a base can't be used: ``problems`` says why. UsageError when ``path`` can't be read.
    """
    found = _assembled(path, ())
    return replace(found, problems=tuple(coded(found.problems, OVERLAY)))


def layers(path: Path) -> tuple[Path, ...]:
    """The files that a plan is put together from, itself first; to be asked of a plan that loads."""
    found = [path]
    while isinstance(base := _named(read(found[-1])), str):
        found.append(found[-1].parent / base)
    return tuple(found)


def _named(document: Document) -> Json:
    tree = cast("dict[str, Json]", document.tree) if isinstance(document.tree, dict) else {}
    return tree.get(EXTENDS)


def _assembled(path: Path, above: tuple[Path, ...]) -> Document:
    overlay = read(path)
    if not isinstance(overlay.tree, dict) or EXTENDS not in overlay.tree or (EXTENDS,) in overlay.told:
        return overlay
    above = (*above, path)
    problem = _refused(overlay, above)
    if problem is not None:
        return _without_base(overlay, problem)
    base_path = path.parent / cast("str", _named(overlay))
    try:
        base = _assembled(base_path, above)
    except UsageError as error:
        text = f"the base can't be used: {error.message}"
        return _without_base(overlay, overlay.problem((EXTENDS,), text, error.remedy))
    if not isinstance(base.tree, dict):
        # What is wrong with the base is told where it stands; here only that it is needed.
        found = base.problems or (base.problem((), "expected a plan, that is a mapping"),)
        return _without_base(overlay, *found)
    tree = cast("dict[str, Json]", overlay.tree)
    own = replace(overlay, tree={name: value for name, value in tree.items() if name != EXTENDS})
    return merged(base, own, _folder_between(path, base_path))


def _without_base(overlay: Document, *problems: Problem) -> Document:
    return replace(overlay, tree=None, problems=(*overlay.problems, *problems))


def _refused(overlay: Document, above: tuple[Path, ...]) -> Problem | None:
    """Why the base that an overlay names can't be used, as far as its name tells."""
    given = _named(overlay)
    found = _misnamed(given, above[-1].parent)
    found = found or _unfollowable(cast("str", given), above)
    return None if found is None else overlay.problem((EXTENDS,), *found)


def _misnamed(given: Json, folder: Path) -> tuple[str, str] | None:
    if not isinstance(given, str) or not given:
        got = "an empty text" if given == "" else shown(given)
        return f"expected the file of the base, got {got}", "For example extends: orders.yaml"
    if "{{" in given or "{%" in given or "{#" in given:
        return f"{EXTENDS} can't be a template", "Write it out."
    if not stays_inside(folder, given) or Path(given).is_absolute():
        return "the base is not in the overlay's folder", "Name a file beside the overlay or below it."
    return None


def _unfollowable(given: str, above: tuple[Path, ...]) -> tuple[str, str] | None:
    base = above[-1].parent / given
    chain = [path.resolve() for path in above]
    if base.resolve() in chain:
        circle = [*(path.name for path in above[chain.index(base.resolve()) :]), base.name]
        return f"the plan extends itself: {' → '.join(circle)}", "Break the circle."
    if len(above) >= _MOST_LAYERS:
        return f"more than {_MOST_LAYERS} files laid over one another", "Merge some of them into one file."
    try:
        folder, file = base.is_dir(), base.is_file()
    except OSError as error:
        # A name too long, a folder that may not be looked into.
        return (
            f"{shown(given)} can't be read: {error.strerror}",
            "Name a file beside the overlay or below it.",
        )
    if folder:
        return f"{shown(given)} is a folder", "Name the plan in it."
    if not file:
        there = sorted(
            path.name for path in base.parent.glob("*.y*ml") if Path(os.path.realpath(path)) not in chain
        )
        near = suggestion(base.name, there, label="Plans there")
        return f"there is no file {shown(given)}", near
    return None


def _folder_between(path: Path, base: Path) -> str:
    """How the base's folder is called from the overlay's; empty when it is the same."""
    between = os.path.relpath(base.parent.resolve(), path.parent.resolve())
    return "" if between == os.curdir else Path(between).as_posix()
