"""Looks into a fleet's tree of which nobody knows yet whether it fits the schema: what is misshapen is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json


def mapping_at(document: Document, keys: Keys) -> Mapping[str, Json]:
    """The mapping at ``keys``; an empty one where there is none."""
    found = at(document.tree, keys)
    return cast("Mapping[str, Json]", found) if isinstance(found, dict) else {}


def entries_at(document: Document, keys: Keys) -> list[tuple[Keys, Mapping[str, Json]]]:
    """The mappings in the list at ``keys``, each with its place."""
    found = at(document.tree, keys)
    entries = cast("list[Json]", found) if isinstance(found, list) else []
    return [
        ((*keys, index), cast("Mapping[str, Json]", entry))
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
    ]


def texts_at(document: Document, keys: Keys) -> list[tuple[Keys, str]]:
    """The texts in the list at ``keys``, each with its place."""
    found = at(document.tree, keys)
    entries = cast("list[Json]", found) if isinstance(found, list) else []
    return [((*keys, index), entry) for index, entry in enumerate(entries) if isinstance(entry, str)]


def text_at(document: Document, keys: Keys) -> str | None:
    """The text at ``keys``."""
    found = at(document.tree, keys)
    return found if isinstance(found, str) and found else None


def count_at(document: Document, keys: Keys, default: int) -> int:
    """The whole number at ``keys``, else ``default``."""
    found = at(document.tree, keys)
    return found if type(found) is int else default


def written(value: str | float) -> str:
    """A value as ``--var`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
