"""From a file to a ``Fleet``: everything that is wrong with it and with its members' plans, all at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.fleet.inventory import inventory, values_at
from planrunner.fleet.listing import rows as rows_of
from planrunner.fleet.listing import wish_of
from planrunner.fleet.members import Bench
from planrunner.fleet.model import Draft, Fleet
from planrunner.fleet.outline import fleet_schema
from planrunner.fleet.portable import fleet_faults
from planrunner.fleet.tree import count_at, entries_at, text_at
from planrunner.fleet.waves import matching, waves
from planrunner.loading import codes
from planrunner.loading.codes import coded
from planrunner.loading.document import shown, suggestion
from planrunner.loading.places import at
from planrunner.loading.pool import pool
from planrunner.loading.references import stays_inside
from planrunner.loading.source import read
from planrunner.loading.validate import departures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.fleet.listing import Known, Wish
    from planrunner.fleet.model import Member, Row, Value, Wave
    from planrunner.loading.document import Document, Keys
    from planrunner.model import DaskPool, Problem


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A fleet as far as it can be read, and what keeps it from being worked on."""

    problems: tuple[Problem, ...]
    fleet: Fleet


def examine_fleet(
    path: Path, environ: Mapping[str, str], listing: Callable[[Wish], Known | None]
) -> Examined:
    """Hold a fleet and each member's plan against every rule; UsageError when the file can't be read.

    ``listing`` tells what AWS lists, None where that is not known; what it raises comes through.
    """
    document = read(path)
    if document.tree is None and document.problems:
        return Examined(problems=document.problems, fleet=_fleet(document, (), ()))
    unfit = departures(fleet_schema(), document, document.tree, advising=False)
    rows, in_rows = inventory(document)
    listed, in_list = _listed(document, rows, listing)
    rows = (*rows, *listed)
    sorted_out, in_waves = waves(document, [row.name for row in rows])
    drafts, in_drafts = _drafts(document, rows)
    in_fleet = tuple(fleet_faults(document))
    portable = text_at(document, ("state",)) is not None
    members, in_plans = Bench(environ, document.path, portable=portable).members(drafts, sorted_out)
    found = [*document.problems, *unfit, *in_fleet, *in_rows, *in_list, *in_waves, *in_drafts, *in_plans]
    ordered = sorted(
        dict.fromkeys(coded(found, codes.FLEET)),
        key=lambda p: (p.path != document.path, p.path, p.line, p.column, p.message),
    )
    return Examined(problems=tuple(ordered), fleet=_fleet(document, sorted_out, members))


def _listed(
    document: Document, written: Sequence[Row], listing: Callable[[Wish], Known | None]
) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    wish = wish_of(document)
    known = listing(wish) if wish is not None else None
    return rows_of(document, known, written) if known is not None else ((), ())


def _fleet(document: Document, sorted_out: Sequence[Wave], members: Sequence[Member]) -> Fleet:
    path = Path(document.path)
    order = {name: place for place, name in enumerate(n for wave in sorted_out for n in wave.members)}
    return Fleet(
        name=text_at(document, ("metadata", "name")) or path.stem,
        path=path,
        digest=digest_of(path),
        waves=tuple(sorted_out),
        members=tuple(sorted(members, key=lambda member: order.get(member.name, len(order)))),
        max_parallel=count_at(document, ("max_parallel",), 4),
        stop_after=count_at(document, ("stop_after",), 1),
        state=text_at(document, ("state",)),
        pool=_pool(document),
    )


def _pool(document: Document) -> DaskPool | None:
    given = at(document.tree, ("pool", "dask"))
    named = isinstance(given, str) or text_at(document, ("pool", "dask", "address")) is not None
    return pool({"pool": {"dask": given}}, Path(document.path).parent) if named else None


def digest_of(path: Path) -> str:
    """The digest of a fleet's file, by which an edit is noticed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _drafts(document: Document, rows: Sequence[Row]) -> tuple[list[Draft], list[Problem]]:
    """Each member with the plan and the values that are its own."""
    problems: list[Problem] = []
    names = [row.name for row in rows]
    shared = values_at(document, ("vars",))
    template = _plan(document, ("plan",), problems)
    drafts = {
        row.name: Draft(row=row, plan=template, plan_keys=("plan",), values={**shared, **row.values})
        for row in rows
    }
    for keys, _ in entries_at(document, ("overrides",)):
        meant, unmatched = matching(document, (*keys, "members"), names)
        problems += unmatched
        values = values_at(document, (*keys, "vars"))
        named = (*keys, "plan")
        plan = _plan(document, named, problems) if text_at(document, named) else None
        for name in meant:
            drafts[name] = _overridden(drafts[name], values, plan, named)
    return [draft for draft in drafts.values() if draft.plan is not None], problems


def _overridden(draft: Draft, values: Mapping[str, Value], plan: Path | None, keys: Keys) -> Draft:
    own = replace(draft, values={**draft.values, **values})
    return own if plan is None else replace(own, plan=plan, plan_keys=keys)


def _plan(document: Document, keys: Keys, problems: list[Problem]) -> Path | None:
    """The plan that is named at ``keys``; None, with the reason among ``problems``, where it can't be used."""
    named = text_at(document, keys)
    if named is None:
        return None
    folder = Path(document.path).parent
    path = folder / named
    if not stays_inside(folder, named):
        text, remedy = "the plan is not in the fleet's folder", "Name a file beside the fleet or below it."
    elif path.is_file():
        return path
    else:
        there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        text, remedy = f"there is no file {shown(named)}", suggestion(path.name, there, label="There are")
    problems.append(document.problem(keys, text, remedy, codes.FLEET))
    return None
