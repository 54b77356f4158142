"""Turns a fleet's file into what its verbs work with."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.cli.opening import OpenedPlan
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.listing import Known, Wish
    from planrunner.fleet.load import Examined
    from planrunner.fleet.model import Fleet, Member

FleetFile: TypeAlias = Annotated[Path, typer.Argument(metavar="FLEET", help="The fleet's file.")]


def kept(path: Path, wish: Wish) -> Known | None:
    """What AWS listed at the fleet's first run; it is not asked."""
    from planrunner.fleet.folder import folder_of
    from planrunner.fleet.listing import Known

    return Known.kept(folder_of(path), wish)


def asked(wish: Wish) -> Known:
    """What AWS lists now."""
    from planrunner.aws.discovery import listed
    from planrunner.fleet.listing import Known

    return Known(listed=listed(wish.access, wish.tags))


def examined(path: Path, listing: Callable[[Wish], Known | None] | None = None) -> Examined:
    """The fleet with everything that is wrong with it; without ``listing`` AWS is not asked."""
    from planrunner.fleet.load import examine_fleet

    return examine_fleet(path, os.environ, listing or (lambda wish: kept(path, wish)))


def loaded(path: Path, listing: Callable[[Wish], Known | None] | None = None) -> Fleet:
    """The fleet; PlanInvalid with everything that is wrong with it and its members' plans."""
    from planrunner.errors import PlanInvalid

    found = examined(path, listing)
    if found.problems:
        raise PlanInvalid(found.problems)
    return found.fleet


def refuse_unknown(fleet: Fleet, until: str | None) -> None:
    """UsageError when members' plans have no step ``until``."""
    from planrunner.errors import UsageError

    without = [] if until is None else [member for member in fleet.members if until not in member.steps]
    if without:
        more = f" and of {len(without) - 1} more members" if len(without) > 1 else ""
        raise UsageError(
            f"the plan of {without[0].name}{more} has no step {until!r}",
            remedy=f"Its steps are: {', '.join(without[0].steps)}.",
        )


def known(path: Path) -> tuple[Fleet, Folder, tuple[str, ...]]:
    """The fleet as it was last run, as it stands in its file when it never was; and what there is to say of that."""
    from planrunner.fleet.folder import folder_of
    from planrunner.fleet.load import digest_of
    from planrunner.loading.source import read

    folder = folder_of(path)
    kept = folder.kept(path)
    if kept is None:
        return loaded(path), folder, ()
    if not path.is_file():
        read(path)  # says why it can't be
    edited = "the fleet's file was edited since: this is the fleet as it was last run"
    return kept, folder, (*strays(kept, folder), *((edited,) if kept.digest != digest_of(path) else ()))


def strays(fleet: Fleet, folder: Folder) -> tuple[str, ...]:
    """What to say of members that have a state and are in the fleet no more."""
    from planrunner.fleet.homes import place
    from planrunner.fleet.journal import chronicle

    # Who was begun is in the journal, also where the states are elsewhere.
    known = folder.members() if fleet.state is None else sorted(chronicle(folder.journal).members)
    return tuple(
        f"{name} has a state and is in the fleet no more; what it left on its servers stays until: planrunner cleanup"
        f" PLAN --state {place(fleet, folder, name)}"
        for name in known
        if fleet.member(name) is None
    )


def command(verb: str, fleet: Fleet, member: Member, folder: Folder) -> str:
    """The command line that does something with one member alone."""
    from planrunner.fleet.crew import arguments

    return shlex.join(("planrunner", verb, *arguments(fleet, member, folder)))


def opened(fleet: Fleet, member: Member, folder: Folder, *, looking_up: bool = True) -> OpenedPlan:
    """A member's plan with its files, as its own commands open it."""
    from planrunner.cli.opening import open_plan
    from planrunner.engine.files import run_files
    from planrunner.fleet.errand import MEMBER
    from planrunner.fleet.homes import place

    os.environ[MEMBER] = member.name
    variables = [f"{name}={text}" for name, text in member.variables.items()]
    where = place(fleet, folder, member.name)
    found = open_plan(member.plan, where, variables, None, looking_up=looking_up)
    if fleet.state is None:
        return found
    # Members share a plan, but no journal and no report.
    files = run_files(member.plan, folder.state(member.name), elsewhere=found.files.elsewhere)
    return replace(found, files=files)
