"""``planrunner fleet run``: bring every member's plan about, wave by wave, or go on where it stopped."""

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.fleet_opening import FleetFile, asked, kept, loaded, refuse_unknown, strays
from planrunner.cli.options import Output, OutputFormat, Yes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.listing import Known, Wish
    from planrunner.fleet.model import Fleet


def run(
    fleet: FleetFile,
    *,
    yes: Yes = False,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STEP", help="Let each member stop after this step; one that has counts as done."
        ),
    ] = None,
    rediscover: Annotated[
        bool,
        typer.Option("--rediscover", help="Ask AWS anew who the members are, and tell what has changed."),
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The workers of this Dask scheduler perform the members' runs: tls://HOST:PORT.",
        ),
    ] = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Bring each member's plan about, wave by wave; run it again to go on where it stopped.

    With --until STEP all members go as far as that step, wave by wave; a run without it goes on from there, canary and
    waves again.

    Exit codes: 0 all are done (up to STEP), 1 members failed (resumable), 2 invalid fleet, 4 a wave or a member waits for
    approval, 5 another run is at work on the fleet, 130 interrupted (resumable).
    """
    from planrunner.cli.fleet_crew import crew, with_pool
    from planrunner.cli.fleet_homes import homes
    from planrunner.cli.screen import note
    from planrunner.clock import SystemClock
    from planrunner.fleet.course import Course, Means
    from planrunner.fleet.folder import folder_of

    folder = folder_of(fleet)
    found = loaded(fleet, lambda wish: _listing(fleet, folder, wish, anew=rediscover))
    if pool is not None:
        found = with_pool(found, pool)
    refuse_unknown(found, until)
    folder.make()
    with _alone(folder):
        _refuse_moved(found, folder)
        folder.keep(found)
        for line in strays(found, folder):
            note(line)
        words = (*(("--yes",) if yes else ()), *(("--until", until) if until is not None else ()))
        tell = _stamped if output is Output.TEXT else _unheard
        with crew(found, folder, words, tell) as begin:
            try:
                means = Means(tell=tell, homes=homes(found, folder), begin=begin)
                Course(found, folder, SystemClock(), means, until=until).go()
            finally:
                _show(found, folder, output)


def _refuse_moved(fleet: "Fleet", folder: "Folder") -> None:
    """StateUnfit when the members that were begun have their states elsewhere than the file says now."""
    from planrunner.errors import StateUnfit
    from planrunner.fleet.journal import chronicle

    former = folder.kept(fleet.path)
    if former is None or former.state == fleet.state or not chronicle(folder.journal).members:
        return
    there = former.state or str(folder.path)
    raise StateUnfit(
        f"members of the fleet were begun with their states in {there}, and the fleet's file says"
        f" {fleet.state or str(folder.path)} now",
        remedy=f"Take the edit of `state` back; or bring the states over and move {folder.path} away.",
    )


def _listing(path: Path, folder: "Folder", wish: "Wish", *, anew: bool) -> "Known":
    """Who the members are: as AWS listed them at the first run, or now where that is wished or was never asked."""
    from planrunner.cli.screen import note
    from planrunner.fleet.listing import Known

    former = Known.kept(folder) if anew else kept(path, wish)
    if former is not None and not anew:
        return former
    found = asked(wish)
    folder.make()
    found.keep(folder, wish)
    for line in found.changes_from(former) if former is not None else ():
        note(line)
    return found


@contextmanager
def _alone(folder: "Folder") -> "Iterator[None]":
    """Hold the fleet's lock; LockedByAnother names who has it."""
    from planrunner.clock import SystemClock
    from planrunner.errors import LockedByAnother
    from planrunner.state import lock

    try:
        with lock.locked(folder.lock, SystemClock()):
            yield
    except LockedByAnother as error:
        holder = lock.holder(folder.lock)
        raise LockedByAnother(
            f"another run works on this fleet: {holder or 'it has just ended'} (lock file {folder.lock})",
            remedy="Wait for it (planrunner fleet status FLEET shows how far it is), or end it; that frees its lock.",
        ) from error


def _stamped(line: str) -> None:
    from planrunner.cli.screen import out
    from planrunner.clock import SystemClock

    # Whoever listened may be gone; the members are at work all the same.
    with suppress(OSError):
        out(f"{SystemClock().now():%H:%M:%S}  {line}")


def _unheard(_line: str) -> None:
    pass


def _show(fleet: "Fleet", folder: "Folder", output: Output) -> None:
    from planrunner.cli.fleet_status import written
    from planrunner.cli.screen import out

    out(written(fleet, folder, (), output))
