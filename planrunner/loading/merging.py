"""Lays one plan over another: mappings key by key, steps by their ids, everything else as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from planrunner.loading.document import Document, Keys, Spot, shown, suggestion
from planrunner.loading.overlay_schema import AFTER, BEFORE, REMOVE, WHOLE

if TYPE_CHECKING:
    from planrunner.model import Json, Problem

STEPS = "steps"
# What a file is named by, relative to the folder of the plan that names it.
_FILE_KEYS = (("secret", "file"), ("pgbouncer", "config"), ("with", "file"))


def merged(base: Document, overlay: Document, between: str) -> Document:
    """The plan that an overlay makes of its base, its values' places those in either file.

    ``between`` leads from the overlay's folder to the base's. Steps that can't be placed are among the problems.
    """
    made = _Merge(_Layer(base, between), _Layer(overlay, ""))
    tree = made.mappings((), (), ())
    return Document(
        path=overlay.path,
        tree=tree,
        lines=overlay.lines,
        values=made.values,
        names=made.names,
        problems=(*base.problems, *overlay.problems, *made.problems),
        told=frozenset(made.told),
    )


@dataclass(frozen=True)
class _Layer:
    """One of the two plans, and what leads to its folder."""

    document: Document
    between: str

    def at(self, keys: Keys) -> Json:
        value: Json = self.document.tree
        for key in keys:
            value = cast("dict[str | int, Json]", value)[key]
        return value

    def spot(self, spot: Spot, keys: Keys) -> Spot:
        return spot if spot.origin else replace(spot, origin=self.document, keys=keys)

    def value(self, keys: Keys) -> Json:
        """A leaf, a file's name seen from the overlay's folder."""
        found = self.at(keys)
        is_file = len(keys) > 1 and (keys[-2], keys[-1]) in _FILE_KEYS
        if self.between and is_file and isinstance(found, str) and not Path(found).is_absolute():
            return str(PurePosixPath(self.between) / found)
        return found


@dataclass
class _Merge:
    """The merged plan as it comes about; the keys of ``values``, ``names`` and ``told`` are those of the result."""

    base: _Layer
    overlay: _Layer
    values: dict[Keys, Spot] = field(default_factory=dict)
    names: dict[Keys, Spot] = field(default_factory=dict)
    told: set[Keys] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def mappings(self, below: Keys, above: Keys, out: Keys) -> Json:
        """The mapping at ``below`` of the base with the one at ``above`` of the overlay laid over it."""
        self._place(self.base, below, out)
        lower = cast("dict[str, Json]", self.base.at(below))
        upper = cast("dict[str, Json]", self.overlay.at(above))
        result: dict[str, Json] = {}
        for name in dict.fromkeys([*lower, *upper]):
            if name not in upper:
                result[name] = self._copied(self.base, (*below, name), (*out, name))
            elif name not in lower:
                result[name] = self._copied(self.overlay, (*above, name), (*out, name))
            else:
                result[name] = self._both((*below, name), (*above, name), (*out, name))
        return result

    def _both(self, below: Keys, above: Keys, out: Keys) -> Json:
        lower, upper = self.base.at(below), self.overlay.at(above)
        if out == (STEPS,) and isinstance(lower, list) and isinstance(upper, list):
            self._place(self.base, below, out)
            return _Steps(self).merged()
        if out[-1] not in WHOLE and isinstance(lower, dict) and isinstance(upper, dict):
            self._name(self.base, below, out)
            return self.mappings(below, above, out)
        if lower == upper and above not in self.overlay.document.told:
            # Repeated, so nothing of the overlay's: a step's id, most of all.
            return self._copied(self.base, below, out)
        return self._copied(self.overlay, above, out)

    def _copied(self, layer: _Layer, keys: Keys, out: Keys) -> Json:
        """A value as it stands in one of the plans, with everything below it."""
        self._place(layer, keys, out)
        value = layer.at(keys)
        if isinstance(value, dict):
            return {name: self._copied(layer, (*keys, name), (*out, name)) for name in value}
        if isinstance(value, list):
            return [self._copied(layer, (*keys, i), (*out, i)) for i in range(len(value))]
        return layer.value(keys)

    def _place(self, layer: _Layer, keys: Keys, out: Keys) -> None:
        self._name(layer, keys, out)
        if keys in layer.document.values:
            self.values[out] = layer.spot(layer.document.values[keys], keys)
        if keys in layer.document.told:
            self.told.add(out)

    def _name(self, layer: _Layer, keys: Keys, out: Keys) -> None:
        if keys in layer.document.names:
            self.names[out] = layer.spot(layer.document.names[keys], keys)

    def complain(self, keys: Keys, message: str, remedy: str | None = None) -> None:
        """A problem with a value of the overlay."""
        self.problems.append(self.overlay.document.problem(keys, message, remedy))

    def step(self, below: int | None, above: int | None, out: int) -> Json:
        """One step: of the base, of the overlay, or of both."""
        if below is None:
            assert above is not None
            return self._copied(self.overlay, (STEPS, above), (STEPS, out))
        if above is None:
            return self._copied(self.base, (STEPS, below), (STEPS, out))
        return self.mappings((STEPS, below), (STEPS, above), (STEPS, out))


@dataclass
class _Row:
    """A step of the result: where it stands in base and overlay; ``tail`` is the last one put after it."""

    below: int | None = None
    above: int | None = None
    tail: _Row | None = None
    placed: frozenset[str] = frozenset()


class _Steps:
    """The steps of both plans in their final order."""

    def __init__(self, merge: _Merge) -> None:
        self._merge = merge
        self._rows = [_Row(below=i) for i in range(len(self._entries(merge.base)))]
        self._known: dict[str, _Row] = {}
        for row in self._rows:
            name = _id_of(self._entries(merge.base)[row.below or 0])
            # Ids that the base uses twice are told later; the first is meant.
            self._known.setdefault(name or "", row)
        self._known.pop("", None)
        self._removed: list[_Row] = []

    def merged(self) -> Json:
        """The list of steps, each placed; what can't be placed is among the problems and left out."""
        given: set[str] = set()
        for index, entry in enumerate(self._entries(self._merge.overlay)):
            name = _id_of(entry)
            if name is None:
                # What it lacks is the schema's to tell.
                self._rows.append(_Row(above=index))
            elif name in given:
                text = f"the id {shown(name)} is used twice in this file"
                self._merge.complain((STEPS, index, "id"), text, "Put what differs into one entry.")
            else:
                self._take(name, index, cast("dict[str, Json]", entry))
            given.add(name or "")
        rows = [row for row in self._rows if not any(row is gone for gone in self._removed)]
        return [self._made(row, out) for out, row in enumerate(rows)]

    def _made(self, row: _Row, out: int) -> Json:
        made = self._merge.step(row.below, row.above, out)
        if isinstance(made, dict):
            return {name: value for name, value in made.items() if name not in row.placed}
        return made

    @staticmethod
    def _entries(layer: _Layer) -> list[Json]:
        return cast("list[Json]", layer.at((STEPS,)))

    def _take(self, name: str, index: int, entry: dict[str, Json]) -> None:
        known = self._known.get(name)
        if REMOVE in entry:
            self._remove(name, index, entry)
        elif known is None:
            self._add(name, index, entry)
        elif self._keeps_its_kind(known, index, entry) and self._keeps_its_place(index, entry):
            known.above = index

    def _remove(self, name: str, index: int, entry: dict[str, Json]) -> None:
        keys: Keys = (STEPS, index)
        if entry[REMOVE] is not True:
            text = f"expected true, got {shown(entry[REMOVE])}"
            self._merge.complain((*keys, REMOVE), text, "Write remove: true, or leave it out.")
        elif name not in self._known:
            self._unknown((*keys, "id"), name)
        elif len(entry) > 2:
            other = next(key for key in entry if key not in {"id", REMOVE})
            text = "a step that is removed takes nothing else"
            self._merge.complain((*keys, other), text, "Leave it out.")
        else:
            self._removed.append(self._known[name])

    def _add(self, name: str, index: int, entry: dict[str, Json]) -> None:
        places = [key for key in (AFTER, BEFORE) if isinstance(entry.get(key), str)]
        if len(places) != 1:
            text = f"the base has no step {shown(name)}; a new one says where it goes"
            if places:
                text = "a new step goes after a step or before one, not both"
            near = suggestion(name, self._known, label="Steps of the base")
            remedy = near if near.startswith("Did you mean") else "Add after: ID or before: ID."
            self._merge.complain((STEPS, index, "id"), text, remedy)
            return
        place = places[0]
        anchor = self._known.get(str(entry[place]))
        if anchor is None:
            self._unknown((STEPS, index, place), str(entry[place]))
            return
        row = _Row(above=index, placed=frozenset({place}))
        self._insert(row, anchor, after=place == AFTER)
        self._known[name] = row

    def _insert(self, row: _Row, anchor: _Row, *, after: bool) -> None:
        # Several after one step keep the order in which they are written.
        last = anchor
        while after and last.tail is not None:
            last = last.tail
        where = next(i for i, known in enumerate(self._rows) if known is last)
        self._rows.insert(where + after, row)
        if after:
            last.tail = row

    def _unknown(self, keys: Keys, name: str) -> None:
        remedy = suggestion(name, self._known, label="Steps")
        self._merge.complain(keys, f"there is no step {shown(name)}", remedy)

    def _keeps_its_kind(self, known: _Row, index: int, entry: dict[str, Json]) -> bool:
        if known.below is None:
            return True
        before = cast("dict[str, Json]", self._entries(self._merge.base)[known.below]).get("uses")
        if "uses" not in entry or entry["uses"] == before:
            return True
        text = f"this step is {shown(before)} in the base and can't become another kind"
        remedy = "Remove it (remove: true) and add one with an id of its own."
        self._merge.complain((STEPS, index, "uses"), text, remedy)
        return False

    def _keeps_its_place(self, index: int, entry: dict[str, Json]) -> bool:
        for key in (AFTER, BEFORE):
            if isinstance(entry.get(key), str) and entry[key] in self._known:
                text = "a step of the base keeps its place"
                self._merge.complain(
                    (STEPS, index, key), text, "Remove it and add one with an id of its own."
                )
                return False
        return True


def _id_of(entry: Json) -> str | None:
    found = entry.get("id") if isinstance(entry, dict) else None
    return found if isinstance(found, str) else None
