"""Holds each member's plan against every rule that a plan alone is held against, and the members against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from planrunner.fleet.model import Member
from planrunner.fleet.portable import files_of, plan_faults
from planrunner.loading import codes, dsn
from planrunner.loading.build import examine
from planrunner.loading.overlays import assembled
from planrunner.loading.places import at
from planrunner.loading.variables import Given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from planrunner.fleet.model import Draft, Wave
    from planrunner.loading.document import Document
    from planrunner.model import Json, Problem

# A variable of this name is the member's own, where the plan declares one.
MEMBER = "member"


class Bench:
    """Examines plans; each file is read once. ``portable``: their runs may be on other machines."""

    def __init__(self, environ: Mapping[str, str], fleet: str, *, portable: bool = False) -> None:
        self._environ = environ
        self._portable = portable
        self._inventories = {fleet}
        self._documents: dict[Path, Document] = {}
        self._told: dict[Problem, list[str]] = {}
        self._targets: dict[tuple[str, str, str], str] = {}

    def members(
        self, drafts: Sequence[Draft], waves: Sequence[Wave]
    ) -> tuple[tuple[Member, ...], tuple[Problem, ...]]:
        """The members, and what is wrong with their plans; what is wrong with several is told once."""
        self._inventories |= {draft.row.document.path for draft in drafts}
        wave_of = {name: wave.name for wave in waves for name in wave.members}
        found = tuple(self._member(draft, wave_of.get(draft.row.name, "")) for draft in drafts)
        told = tuple(self._counted(problem, names, len(drafts)) for problem, names in self._told.items())
        return found, told

    def _member(self, draft: Draft, wave: str) -> Member:
        path = cast("Path", draft.plan)
        document = self._document(path)
        variables = {name: value.text for name, value in draft.values.items()}
        if MEMBER in _declared(document) and MEMBER not in variables:
            variables[MEMBER] = draft.row.name
        origins = {name: value.origin for name, value in draft.values.items()}
        given = Given(variables=variables, var_files=(), environ=self._environ, origins=origins)
        found = examine(document, path, given)
        problems = found.problems
        if self._portable and not problems:
            problems = tuple(plan_faults(document, found.tree, path.parent))
        for problem in problems:
            self._note(problem, draft)
        if not found.problems:
            self._claim(draft, found.tree)
        return Member(
            name=draft.row.name,
            wave=wave,
            plan=path,
            variables=variables,
            steps=_steps(found.tree),
            files=files_of(path, found.tree) if self._portable and not problems else (),
        )

    def _document(self, path: Path) -> Document:
        if path not in self._documents:
            self._documents[path] = assembled(path)
        return self._documents[path]

    def _note(self, problem: Problem, draft: Draft) -> None:
        self._told.setdefault(problem, []).append(draft.row.name)

    def _claim(self, draft: Draft, tree: Json) -> None:
        """A target belongs to one member: two would write each other's tables full."""
        text = at(tree, ("connections", "target", "dsn"))
        place = dsn.parse(str(text)).place
        owner = self._targets.setdefault(place, draft.row.name)
        if owner != draft.row.name:
            host, port, database = place
            message = (
                f"{draft.row.name} and {owner} have the same target, database {database} on {host}:{port}"
            )
            remedy = "Give each member a target database of its own."
            self._note(draft.row.document.problem(draft.row.keys, message, remedy, codes.FLEET), draft)

    def _counted(self, problem: Problem, names: Sequence[str], members: int) -> Problem:
        """The problem with whom it concerns, where that is not all and its place does not say it."""
        if len(names) == members or problem.path in self._inventories:
            return problem
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return replace(problem, message=f"{problem.message} (member {names[0]}{more})")


def _declared(document: Document) -> Mapping[str, Json]:
    found = at(document.tree, ("vars",))
    return cast("Mapping[str, Json]", found) if isinstance(found, dict) else {}


def _steps(tree: Json) -> tuple[str, ...]:
    steps = at(tree, ("steps",))
    ids = [at(tree, ("steps", i, "id")) for i in range(len(steps) if isinstance(steps, list) else 0)]
    return tuple(one for one in ids if isinstance(one, str))
