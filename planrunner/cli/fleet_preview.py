"""``planrunner fleet preview``: what a run of the whole fleet would do, summed up; changes nothing."""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.fleet_opening import FleetFile, asked, kept, loaded, opened
from planrunner.cli.options import OutFile, Output, OutputFormat
from planrunner.cli.preview import CHANGES_PENDING, Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.cli.opening import OpenedPlan
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Fleet, Member
    from planrunner.fleet.previews import MemberPreview


def preview(
    fleet: FleetFile,
    *,
    style: Annotated[Format | None, typer.Option("--format", help="How it is written to stdout.")] = None,
    out: OutFile = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode", help="Exit 10 when changes are pending, 1 when a check would stop them."
        ),
    ] = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show what a run would do over all members: sizes, restarts (each server once), what is destroyed, failing checks.

    So many members are asked at once as the fleet's max_parallel says. Exit 1 when a member can't be looked at.
    """
    from planrunner.cli import screen
    from planrunner.fleet.folder import folder_of

    folder = folder_of(fleet)
    found = loaded(fleet, lambda wish: kept(fleet, wish) or asked(wish))
    previews = _previews(found, folder)
    chosen = style or Format(output.value)
    screen.out(_written(found, previews, chosen), out)
    if any(one.tree is None or (detailed_exitcode and one.failures) for one in previews):
        raise typer.Exit(1)
    if detailed_exitcode and any(one.actions for one in previews):
        raise typer.Exit(CHANGES_PENDING)


def _previews(fleet: "Fleet", folder: "Folder") -> "list[MemberPreview]":
    """Each member's preview, in processes that look at one after the other."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    workers = min(fleet.max_parallel, len(fleet.members))
    # Nothing is connected and no thread runs yet: a fork has all modules already, also inside one executable.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        return list(pool.map(partial(previewed, fleet, folder), fleet.members))


def previewed(fleet: "Fleet", folder: "Folder", member: "Member") -> "MemberPreview":
    """One member's preview; what keeps it from being made is in it."""
    from planrunner.errors import PlanrunnerError
    from planrunner.fleet.previews import MemberPreview
    from planrunner.masking import hushed

    try:
        plan = opened(fleet, member, folder)
        server, text = _looked(plan)
    except PlanrunnerError as error:
        return MemberPreview(name=member.name, wave=member.wave, error=hushed(str(error)))
    return MemberPreview(name=member.name, wave=member.wave, server=server, tree=json.loads(hushed(text)))


def _looked(plan: "OpenedPlan") -> tuple[str, str]:
    """What a restart would restart, and the preview as JSON."""
    from planrunner.engine.preview import preview as made
    from planrunner.engine.preview_json import to_json

    with plan.looking() as view:
        found = made(view)
        system = (view.context.identities.source or "").partition("/")[0]
    rds = plan.plan.source.rds
    where = f" ({rds.region})" if rds and rds.region else ""
    return (f"RDS instance {rds.instance}{where}" if rds else f"source system {system}"), to_json(found)


def _written(fleet: "Fleet", previews: "Sequence[MemberPreview]", style: Format) -> str:
    from planrunner.cli.screen import table
    from planrunner.engine import markdown_safe
    from planrunner.fleet import previews_text

    match style:
        case Format.JSON:
            return _as_json(fleet, previews)
        case Format.MARKDOWN:
            return previews_text.to_markdown(fleet.name, previews, markdown_safe.text)
        case Format.TEXT:
            lines = [table(previews_text.HEAD, previews_text.rows(previews)), *previews_text.below(previews)]
            return "\n".join((f"fleet {fleet.name}", *lines))


def _as_json(fleet: "Fleet", previews: "Sequence[MemberPreview]") -> str:
    from planrunner.fleet.previews import as_json, by_wave, sums, sums_json

    tree = {
        "fleet": fleet.name,
        "sums": sums_json(sums(previews)),
        "waves": [{"name": wave, **sums_json(sums(members))} for wave, members in by_wave(previews).items()],
        "members": [as_json(one) for one in previews],
    }
    return json.dumps(tree, indent=2, ensure_ascii=False)
