"""``planrunner fleet status``: one table for all members, from their states; asks no server but those that keep them."""

import json
from shlex import quote
from typing import TYPE_CHECKING

from planrunner.cli.fleet_opening import FleetFile, command, known
from planrunner.cli.options import Output, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.journal import Chronicle
    from planrunner.fleet.model import Fleet, Wave
    from planrunner.fleet.standing import MemberView


def status(fleet: FleetFile, *, output: OutputFormat = Output.TEXT) -> None:
    """Show how far each member is, in one table; asks no server but those that keep the members' states."""
    from planrunner.cli.screen import out

    found, folder, notes = known(fleet)
    out(written(found, folder, notes, output))


def written(fleet: "Fleet", folder: "Folder", notes: "Sequence[str]", output: Output) -> str:
    """The table of a fleet."""
    from planrunner.cli.fleet_homes import homes
    from planrunner.fleet.journal import chronicle
    from planrunner.fleet.standing import look

    journal = chronicle(folder.journal)
    views = look(fleet, homes(fleet, folder), journal)
    if output is Output.JSON:
        return json.dumps(_as_json(fleet, folder, journal, views), indent=2, ensure_ascii=False)
    return _as_text(fleet, folder, journal, views, notes)


def _as_text(
    fleet: "Fleet",
    folder: "Folder",
    journal: "Chronicle",
    views: "Sequence[MemberView]",
    notes: "Sequence[str]",
) -> str:
    from planrunner.cli.screen import table
    from planrunner.clock import SystemClock
    from planrunner.fleet.standing import Standing
    from planrunner.fleet.table import HEAD, rows, summary
    from planrunner.state.lock import holder

    at_work = holder(folder.lock)
    work = f"a run is at work ({at_work})" if at_work else "no run is at work"
    lines = [f"fleet {fleet.name}: {work}", table(HEAD, rows(views, SystemClock().now())), summary(views)]
    gates = [wave for wave in fleet.waves if wave.manual and not journal.approves(wave.name, wave.digest)]
    lines += [_gate(wave, journal) for wave in gates]
    if any(view.standing is Standing.REACHED for view in views):
        lines.append(
            f"Those that are done up to a step go on with: planrunner fleet run {quote(str(fleet.path))}"
        )
    failed = next((view for view in views if view.standing is Standing.FAILED), None)
    member = fleet.member(failed.name) if failed else None
    if member is not None:
        lines.append(f"One member alone, such as {member.name}: {command('status', fleet, member, folder)}")
    return "\n".join((*lines, *notes))


def _gate(wave: "Wave", journal: "Chronicle") -> str:
    far = journal.approved_until(wave.name, wave.digest)
    if far:
        return (
            f"wave {wave.name} is approved up to {', '.join(far)}; it goes on from there once it is approved"
        )
    return f"wave {wave.name} begins once it is approved"


def _as_json(
    fleet: "Fleet", folder: "Folder", journal: "Chronicle", views: "Sequence[MemberView]"
) -> dict[str, object]:
    from planrunner.fleet.table import as_json, counts
    from planrunner.state.lock import holder

    at_work = holder(folder.lock)
    waves = [
        {
            "name": wave.name,
            "members": len(wave.members),
            "canary": wave.canary,
            "manual": wave.manual,
            "approved": not wave.manual or journal.approves(wave.name, wave.digest),
            "approved_until": list(journal.approved_until(wave.name, wave.digest)),
        }
        for wave in fleet.waves
    ]
    members = [
        {**as_json(view), "command": command("run", fleet, member, folder)}
        for view, member in zip(views, fleet.members, strict=True)
    ]
    return {
        "fleet": fleet.name,
        "running": str(at_work) if at_work else None,
        "counts": counts(views),
        "waves": waves,
        "members": members,
    }
