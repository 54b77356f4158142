"""``planrunner fleet approve``: let a wave begin, or let a step of members go on."""

from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.fleet_opening import FleetFile, known, loaded, opened, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Fleet, Member, Wave


def approve(
    fleet: FleetFile,
    who_or_what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WAVE|MEMBER]...",
            help="Waves, or with --step members (patterns, too) and waves; default the next wave, or who waits.",
        ),
    ] = None,
    *,
    step: Annotated[
        str | None, typer.Option(metavar="STEP", help="Approve this step of members, such as cutover.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="STEP", help="Approve waves for `fleet run --until STEP` only, and not what follows."
        ),
    ] = None,
    because: Annotated[str, typer.Option(metavar="REASON", help="Why, for the record.")] = "no reason given",
) -> None:
    """Approve that a wave begins, with the members that it has now; or a step of members, as it stands in their plans."""
    from planrunner.cli.screen import out
    from planrunner.fleet.folder import folder_of

    if step is not None:
        _refuse_both(until)
        found, folder, _ = known(fleet)
        out(_approve_step(found, folder, who_or_what or [], step, because))
        return
    # As the next run will see it: an approval is bound to the members that a wave has.
    folder = folder_of(fleet)
    found = loaded(fleet)
    refuse_unknown(found, until)
    waves = _waves(found, folder, who_or_what or [], until)
    folder.make()
    far = "" if until is None else f" up to {until}"
    for wave in waves:
        _approve_wave(wave, folder, because, until)
        out(f"wave {wave.name} ({len(wave.members)} members) is approved{far}.")
    out(f"Go on with: planrunner fleet run {fleet}{'' if until is None else f' --until {until}'}")


def _refuse_both(until: str | None) -> None:
    from planrunner.errors import UsageError

    if until is not None:
        raise UsageError(
            "--until is for waves, --step for a step of members", remedy="Approve one after the other."
        )


def _waves(fleet: "Fleet", folder: "Folder", names: "Sequence[str]", until: str | None) -> "list[Wave]":
    from planrunner.errors import UsageError
    from planrunner.fleet.journal import chronicle

    manual = [wave for wave in fleet.waves if wave.manual]
    waiting = f"Waves that wait for approval: {', '.join(wave.name for wave in manual) or 'none'}."
    for name in names:
        if fleet.wave(name) is None:
            hint = f"A member's step is approved with --step. {waiting}" if fleet.member(name) else waiting
            raise UsageError(f"the fleet has no wave {name!r}", remedy=hint)
    if names:
        return [wave for wave in fleet.waves if wave.name in names]
    known_ones = chronicle(folder.journal)
    left = [wave for wave in manual if not known_ones.approves(wave.name, wave.digest, until)]
    if not left:
        raise UsageError(
            "no wave of the fleet waits for approval", remedy="With --step a member's step is approved."
        )
    return left[:1]


def _approve_wave(wave: "Wave", folder: "Folder", because: str, until: str | None) -> None:
    from planrunner.cli.opening import person
    from planrunner.clock import SystemClock
    from planrunner.fleet.journal import Entry, What, append

    entry = Entry(
        at=SystemClock().now(),
        what=What.APPROVED,
        about=wave.name,
        digest=wave.digest,
        who=person(),
        why=because,
        until=until,
    )
    append(folder.journal, entry)


def _approve_step(fleet: "Fleet", folder: "Folder", names: "Sequence[str]", step: str, because: str) -> str:
    from planrunner.errors import PlanrunnerError, UsageError

    folder.make()
    members = _meant(fleet, names) if names else _waiting(fleet, folder, step)
    if not members:
        raise UsageError(
            f"no member waits at step {step!r}", remedy="Name the members whose step is approved."
        )
    refused: list[str] = []
    for member in members:
        try:
            _approve_member(fleet, member, folder, step, because)
        except PlanrunnerError as error:
            refused.append(f"{member.name}: {error.message}")
    if refused:
        done = len(members) - len(refused)
        raise UsageError(
            f"step {step} of {done} members is approved, but not of {len(refused)}", remedy="\n".join(refused)
        )
    return f"step {step} of {len(members)} members is approved. Go on with: planrunner fleet run {fleet.path}"


def _approve_member(fleet: "Fleet", member: "Member", folder: "Folder", step: str, because: str) -> None:
    from planrunner.cli.opening import person
    from planrunner.engine import approvals
    from planrunner.engine.launch import at_work

    plan = opened(fleet, member, folder)
    with at_work(plan.plan, plan.files, plan.parts()) as setup:
        approvals.approve(setup, step, who=person(), why=because)


def _meant(fleet: "Fleet", names: "Iterable[str]") -> "list[Member]":
    """The members that are named by themselves, by patterns or by their waves."""
    from fnmatch import fnmatchcase

    from planrunner.errors import UsageError

    found: dict[str, Member] = {}
    for name in names:
        meant = [m for m in fleet.members if fnmatchcase(m.name, name) or m.wave == name]
        if not meant:
            raise UsageError(
                f"the fleet has no member and no wave {name!r}",
                remedy=f"planrunner fleet status {fleet.path} lists its members.",
            )
        found |= {member.name: member for member in meant}
    return list(found.values())


def _waiting(fleet: "Fleet", folder: "Folder", step: str) -> "list[Member]":
    from planrunner.cli.fleet_homes import homes
    from planrunner.fleet.journal import chronicle
    from planrunner.fleet.standing import Standing, look

    views = look(fleet, homes(fleet, folder), chronicle(folder.journal))
    names = {view.name for view in views if view.standing is Standing.WAITING and view.step == step}
    return [member for member in fleet.members if member.name in names]
