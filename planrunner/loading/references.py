"""References to secrets inside plans and variable files: their form, and that their files stay in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from planrunner.loading import codes
from planrunner.loading.outline import SECRET, mapping
from planrunner.loading.places import at
from planrunner.loading.validate import departures
from planrunner.model import SecretKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_KINDS = tuple(kind.value for kind in SecretKind)


def secret_faults(document: Document, tree: Json, keys: Keys, folder: Path) -> Iterator[Problem]:
    """What no schema says about the reference at ``keys``: how many kinds it names, and where its file lies."""
    secret = at(tree, keys)
    if not isinstance(secret, dict):
        return
    given = [name for name in _KINDS if name in secret]
    if len(given) != 1:
        text = f"expected exactly one of {', '.join(_KINDS)}, got {' and '.join(given) or 'none'}"
        yield document.problem(keys, text, "For example: {env: SOURCE_PASSWORD}", codes.REFERENCE)
    locator = secret.get("file")
    if isinstance(locator, str) and not stays_inside(folder, locator):
        yield document.problem(
            (*keys, "file"),
            "the file is not in the plan's folder",
            "Name a file beside the plan or below it; for another place use command, such as [cat, FILE].",
            codes.REFERENCE,
        )


def stays_inside(folder: Path, locator: str) -> bool:
    """Whether the file lies in ``folder`` or below it, symbolic links followed."""
    try:
        return (folder / locator).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # A loop of symbolic links, or a name that no file can have.
        return False


def well_formed(secret: Mapping[str, Json]) -> bool:
    """Whether a reference can be followed; what is wrong with it is told elsewhere."""
    given = [secret[name] for name in _KINDS if name in secret]
    return len(given) == 1 and bool(given[0]) and isinstance(given[0], str | list)


def referred(file: Document, sensitive: frozenset[str]) -> Iterator[Problem]:
    """What is wrong with the references of a variable file; only sensitive variables may have one."""
    tree = cast("Mapping[str, Json]", file.tree) if isinstance(file.tree, dict) else {}
    named = {name: tree[name] for name in tree if name in sensitive and isinstance(tree[name], dict)}
    reference = mapping("Value", "Where the value is kept.", {"secret": SECRET}, required=["secret"])
    schema = {"type": "object", "properties": dict.fromkeys(named, reference)}
    yield from departures(schema, file, named)
    for name in named:
        yield from secret_faults(file, file.tree, (name, "secret"), Path(file.path).parent)
