"""What no schema can say of how a plan runs: circles of needs, conditions on unknown names, files out of reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner import registry
from planrunner.conditions import SIDE_FACTS, STEP_FACTS, NotACondition, names
from planrunner.loading.document import Document, Keys, shown, suggestion
from planrunner.loading.flow import in_order, needs_of
from planrunner.loading.places import at
from planrunner.statements import StatementsUnfit, split
from planrunner.webhook import refused_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.model import Json, Problem

CLEANUP = "cleanup"
_LARGEST_FILE = 16 * 1024 * 1024


def flow_faults(
    document: Document, tree: Json, folder: Path, inside: Callable[[Path, str], bool]
) -> list[Problem]:
    """Every such fault; values of the wrong type are the schema's to tell. ``inside`` tells whether a file is."""
    steps = _Steps(document, tree)
    found = [*steps.needs_faults(), *steps.cleanup_faults()]
    for index in range(steps.count):
        found += steps.condition_faults(index)
        found += _file_faults(document, tree, index, folder, inside)
        found += _wait_faults(document, tree, index)
    return [*found, *_notification_faults(document, tree)]


def secret_places(tree: Json) -> Iterator[Keys]:
    """Where hooks and webhooks refer to secrets."""
    for index, _ in enumerate(_list(at(tree, ("steps",)))):
        for phase in ("before", "after"):
            for number, _ in enumerate(_list(at(tree, ("steps", index, phase)))):
                keys: Keys = ("steps", index, phase, number, "env")
                yield from ((*keys, name, "secret") for name in _mapping(at(tree, keys)))
    for index, _ in enumerate(_list(at(tree, ("notifications",)))):
        for place in ("url", "header"):
            yield ("notifications", index, "webhook", place, "secret")


class _Steps:
    """The steps' ids, needs and order, as far as they can be told."""

    def __init__(self, document: Document, tree: Json) -> None:
        self._document = document
        self._tree = tree
        entries = _list(at(tree, ("steps",)))
        self.count = len(entries)
        self._ids = [
            name if isinstance(name := at(e, ("id",)), str) else f"#{i}" for i, e in enumerate(entries)
        ]
        self._needs = needs_of(self._ids, [self._named(index) for index in range(self.count)])
        self._order = in_order(
            {one: [n for n in needs if n in self._needs] for one, needs in self._needs.items()}
        )

    def _named(self, index: int) -> tuple[str, ...] | None:
        given = at(self._tree, ("steps", index, "needs"))
        if not isinstance(given, list):
            return None
        return tuple(name for name in given if isinstance(name, str))

    def needs_faults(self) -> Iterator[Problem]:
        for index in range(self.count):
            for place, name in enumerate(_list(at(self._tree, ("steps", index, "needs")))):
                keys: Keys = ("steps", index, "needs", place)
                if name == self._ids[index]:
                    yield self._document.problem(keys, "the step needs itself", "Remove it here.")
                elif isinstance(name, str) and name not in self._ids:
                    remedy = suggestion(name, self._ids, label="Steps")
                    yield self._document.problem(keys, f"there is no step {shown(name)}", remedy)
        # A step that needs itself is told already, and whoever needs it has no fault of its own.
        if len(set(self._ids)) == len(self._ids) and (circle := self._circle()):
            index = min(self._ids.index(name) for name in circle if "needs" in _mapping(self._entry(name)))
            way = " → ".join([*circle, circle[0]])
            yield self._document.problem(
                ("steps", index, "needs"),
                f"the steps need each other in a circle: {way}",
                "Take one need away.",
            )

    def _circle(self) -> list[str]:
        for start in (
            name for name in self._ids if name not in self._order and name not in self._needs[name]
        ):
            way: list[str] = []
            name: str | None = start
            while name is not None and name not in way:
                way.append(name)
                stuck = [n for n in self._needs[name] if n in self._needs and n not in self._order]
                name = next((n for n in stuck if n != name), None)
            if name is not None:
                return way[way.index(name) :]
        return []

    def _entry(self, step_id: str) -> Json:
        return at(self._tree, ("steps", self._ids.index(step_id)))

    def cleanup_faults(self) -> Iterator[Problem]:
        """Whatever runs after a cleanup finds no records of the migration any more."""
        kinds = {name: at(self._entry(name), ("uses",)) for name in self._order}
        last = next((place for place, name in enumerate(self._order) if kinds[name] == CLEANUP), None)
        if last is not None and (after := self._order[last + 1 :]):
            index = self._ids.index(self._order[last])
            yield self._document.problem(
                ("steps", index, "uses"),
                f"cleanup must be the last step; {', '.join(after)} would run after it",
                "Move it to the end.",
            )

    def condition_faults(self, index: int) -> Iterator[Problem]:
        keys: Keys = ("steps", index, "when")
        text = at(self._tree, keys)
        if not isinstance(text, str) or "{{" in text:
            return
        try:
            for name in names(text):
                fault = self._name_fault(name, index)
                if fault is not None:
                    yield self._document.problem(keys, *fault)
        except NotACondition as error:
            yield self._document.problem(
                keys, error.reason, 'For example: source.version < 16 or vars.env == "test"'
            )

    def _name_fault(self, name: tuple[str, ...], index: int) -> tuple[str, str] | None:
        written, root = ".".join(name), name[0]
        if root == "vars" and len(name) == 2:
            declared = _mapping(at(self._document.tree, ("vars",)))
            known = suggestion(name[1], sorted(declared), label="Declared")
            return None if name[1] in declared else (f"{written} is not declared", known)
        if root in ("source", "target") and len(name) == 2:
            known = suggestion(name[1], SIDE_FACTS, label="Known here")
            return None if name[1] in SIDE_FACTS else (f"{written} is not known in a condition", known)
        if root == "steps" and len(name) == 3:
            return self._step_fault(name, index)
        return f"{shown(written)} is not known in a condition", (
            "There are vars.NAME, source.version, target.version, source.is_rds and the like, and steps.ID.status."
        )

    def _step_fault(self, name: tuple[str, ...], index: int) -> tuple[str, str] | None:
        _, step_id, fact = name
        if step_id not in self._ids:
            return f"there is no step {shown(step_id)}", suggestion(step_id, self._ids, label="Steps")
        if fact not in STEP_FACTS:
            return f"steps.{step_id}.{fact} is not known", suggestion(fact, STEP_FACTS, label="Known here")
        own = self._ids[index]
        placed = [one for one in (step_id, own) if one in self._order]
        if len(placed) == 2 and self._order.index(step_id) >= self._order.index(own):
            return (
                f"step {step_id} does not run before {own}",
                f"Add it: needs: [{step_id}], or move this step below it.",
            )
        return None


def _file_faults(
    document: Document, tree: Json, index: int, folder: Path, inside: Callable[[Path, str], bool]
) -> Iterator[Problem]:
    """Files that a step's options name, and statements that no server takes."""
    for keys, name in plan_files(tree, index):
        if not inside(folder, name):
            yield document.problem(
                keys, "the file is not in the plan's folder", "Name a file beside the plan or below it."
            )
        elif (text := _read(folder / name)) is None:
            yield document.problem(
                keys, f"the file {shown(name)} can't be read", "Write its name as it is here."
            )
        elif at(tree, ("steps", index, "uses")) == "sql":
            yield from _statement_faults(document, keys, text)
    if at(tree, ("steps", index, "uses")) == "sql":
        yield from _sql_faults(document, tree, index)


def plan_files(tree: Json, index: int) -> Iterator[tuple[Keys, str]]:
    """The options of a step that name a file of the plan's folder, as its fragment says."""
    uses = at(tree, ("steps", index, "uses"))
    if not isinstance(uses, str) or uses not in registry.step_names():
        return
    for option, schema in registry.fragment(uses)["properties"].items():
        keys: Keys = ("steps", index, "with", option)
        name = at(tree, keys)
        if schema.get("format") == "plan-file" and isinstance(name, str) and name and "{{" not in name:
            yield keys, name


def _read(path: Path) -> str | None:
    try:
        # A pipe would keep whoever lints waiting for ever.
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return None
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None


def _sql_faults(document: Document, tree: Json, index: int) -> Iterator[Problem]:
    keys: Keys = ("steps", index, "with")
    given = _mapping(at(tree, keys))
    if len({"statements", "file"} & given.keys()) != 1:
        told = "both" if "file" in given else "neither"
        yield document.problem(
            keys, f"expected one of statements and file, got {told}", "Give exactly one of them."
        )
    for place, text in enumerate(_list(given.get("statements"))):
        if isinstance(text, str):
            yield from _statement_faults(document, (*keys, "statements", place), text)


def _statement_faults(document: Document, keys: Keys, text: str) -> Iterator[Problem]:
    try:
        if not split(text):
            yield document.problem(keys, "there is no statement in it", "Write one.")
    except StatementsUnfit as error:
        yield document.problem(keys, f"line {error.line}: {error.reason}", error.remedy)


def _wait_faults(document: Document, tree: Json, index: int) -> Iterator[Problem]:
    keys: Keys = ("steps", index, "with")
    given = at(tree, keys)
    if at(tree, ("steps", index, "uses")) != "wait" or not isinstance(given, dict | None):
        return
    if len({"query", "lag_below"} & _mapping(given).keys()) != 1:
        yield document.problem(keys, "expected one of query and lag_below", "Give exactly one of them.")


def _notification_faults(document: Document, tree: Json) -> Iterator[Problem]:
    for index, entry in enumerate(_list(at(tree, ("notifications",)))):
        keys: Keys = ("notifications", index)
        if isinstance(entry, dict) and len({"command", "webhook"} & entry.keys()) != 1:
            yield document.problem(keys, "expected one of command and webhook", "Give exactly one of them.")
        url = at(tree, (*keys, "webhook", "url"))
        if isinstance(url, str) and url and "{{" not in url and (reason := refused_url(url)):
            yield document.problem((*keys, "webhook", "url"), reason, "Write https://HOST/PATH.")


def _list(value: Json) -> list[Json]:
    return cast("list[Json]", value) if isinstance(value, list) else []


def _mapping(value: Json) -> dict[str, Json]:
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}
