"""The one reboot: asked for once, found again after a crash or a lost answer, in the maintenance window if wished."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from planrunner.aws.carrier import BUSY, looking
from planrunner.aws.window import window
from planrunner.enabling import record, wish
from planrunner.enabling.actions import calm, timeout
from planrunner.errors import CloudError, ServerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import headroom, needs
from planrunner.step import IRREVERSIBLE, NOTHING_STAYS, Action
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from planrunner.aws.carrier import Carrier, Standing
    from planrunner.aws.window import Window
    from planrunner.ports import Clock
    from planrunner.step import Run

IN_WINDOW = "in_window"
# AWS may need a minute to notice that a group waits for a reboot.
NOTICE_SECONDS = 90.0
# Within this time a reboot that AWS took shows: a status, a server that is away, a younger server.
SEEN_SECONDS = 45.0
_POLL_SECONDS = 1.0
# A window days ahead is waited for in short sleeps, because the clock may be set meanwhile.
_WINDOW_POLL_SECONDS = 30.0
_TRIES = 5
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded"})
# AWS did not say no: it may have done it or not.
_UNKNOWN = frozenset({None, "InternalFailure", "InternalServerError", "ServiceUnavailable"})


def rebooting(carrier: Carrier, now: Standing, consent: str, clock: Clock | None) -> Action:
    """The reboot as the plan consents to it; ``clock`` is None where nothing is known of the window."""
    command, name = carrier.rebooting(now), now.rebooted
    asks = f"Reboot {name} now? Its sessions are cut off and it is away until it has restarted."
    never = f"{name} needs a reboot and the plan says reboot: never. Reboot it, then run again: {command}"
    noun = "DBCluster" if now.whole else "DBInstance"
    when = _told_window(now, clock) if consent == IN_WINDOW else ""
    return Action(
        name="reboot",
        summary=f"reboot {name} once{when}, so that its parameter group takes effect",
        where=Side.AWS,
        perform=partial(_reboot, carrier=carrier),
        statements=(command,),
        locks=("every session is cut off, until it has restarted",),
        needs=(f"rds:Reboot{noun}", *looking(now), *needs.on(Side.TARGET, needs.CREATE)),
        undo=f"{IRREVERSIBLE}: a reboot is over once it is done",
        lasting=NOTHING_STAYS,
        asks=asks if consent == "ask" else None,
        blocked=never if consent == "never" else None,
        restarts=True,
    )


def _told_window(now: Standing, clock: Clock | None) -> str:
    if clock is None:
        return " in its maintenance window"
    found, moment = _window(now), clock.now()
    if found.holds(moment):
        until = found.closes(moment)
        return f" in its maintenance window {found.text} UTC (open until {until:%a %Y-%m-%d %H:%M} UTC)"
    return f" in its maintenance window {found.text} UTC (opens {found.opens(moment):%a %Y-%m-%d %H:%M} UTC)"


def _window(now: Standing) -> Window:
    try:
        return window(now.window)
    except ValueError as error:
        raise StepFailed(
            f"aws: {now.rebooted} has no maintenance window that could be waited for: {error}",
            remedy="Give the step reboot: allow or ask.",
        ) from error


def over(run: Run, now: Standing) -> str | None:
    """Why no reboot is asked for any more: there was the one, and it did not help; None where none was yet."""
    asked = record.read(run).reboot
    if asked is None or headroom.started(run.source) == asked.running_since:
        return None
    return (
        f"{asked.of} was rebooted once for this plan already (before, it had been running since"
        f" {asked.running_since} UTC), and a second time it is not: its parameter group {now.group} is"
        f" {now.apply_status} now. See why it did not take effect, reboot it yourself, then run again."
    )


def _reboot(run: Run, *, carrier: Carrier) -> None:
    """Reboot once the group waits for it; a reboot that is under way or done is not repeated."""
    now = _pending(run, carrier)
    if now is None:
        return
    since = headroom.started(run.source)
    asked = record.read(run).reboot
    if asked is not None:
        if (reason := over(run, now)) is not None:
            raise StepFailed(f"aws: {now.rebooted} needs a reboot", remedy=reason)
        if _seen(run, carrier, since):
            return
    if run.option("reboot", "ask") == IN_WINDOW:
        _await_window(run, now)
        now = _pending(run, carrier)
        if now is None:
            return
        since = headroom.started(run.source)
    record.rebooting(run, now.rebooted, since)
    run.tell(f"rebooting {now.rebooted}", {"instance": now.rebooted, "running_since": since})
    failpoint("rds.before_reboot_call")
    _ask(run, carrier, now, since)
    failpoint("rds.after_reboot_call")


def _pending(run: Run, carrier: Carrier) -> Standing | None:
    """How it stands once its group waits for the reboot; None when nothing is to be rebooted for any more."""
    deadline = run.clock.monotonic() + NOTICE_SECONDS
    while True:
        now = calm(run, carrier)
        found = wish.room(run)
        if not wish.unmet(run, found):
            return None
        if now.apply_status == "pending-reboot":
            return now
        if run.clock.monotonic() > deadline:
            raise StepFailed(
                f"aws: parameter group {now.group} of {now.name} is {now.apply_status}, not pending-reboot,"
                f" and SHOW wal_level says {found.settings.get('wal_level')}",
                remedy="AWS may need more time to notice the change: run again. If that does not help, see what it"
                f" says: {carrier.events(now)}",
            )
        run.clock.sleep(_POLL_SECONDS)


def _await_window(run: Run, now: Standing) -> None:
    """Sleep until the window is open; an interruption is safe, the next run goes on waiting."""
    found, told = _window(now), None
    while not found.holds(moment := run.clock.now()):
        opens = found.opens(moment)
        left = (opens - moment).total_seconds()
        if opens != told:
            run.tell(
                f"{now.rebooted} is rebooted in its maintenance window {found.text} UTC: waiting until"
                f" {opens:%a %Y-%m-%d %H:%M} UTC, {human_seconds(left)} from now; Ctrl-C is safe, the next run goes on"
                " waiting",
                {"instance": now.rebooted, "window": found.text, "opens": opens.isoformat()},
            )
            told = opens
        run.clock.sleep(min(left, _WINDOW_POLL_SECONDS))


def _ask(run: Run, carrier: Carrier, now: Standing, since: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            carrier.reboot(now)
        except CloudError as error:
            if error.code in _UNKNOWN or error.code in BUSY:
                if _seen(run, carrier, since):
                    return
                calm(run, carrier)
            elif error.code not in _THROTTLED or not left:
                record.not_rebooted(run)
                raise
            if not left:
                raise
            run.clock.sleep(_POLL_SECONDS)
        else:
            return


def _seen(run: Run, carrier: Carrier, since: str) -> bool:
    """True once a reboot that was asked for shows; False when it does not within a time in which AWS's do."""
    deadline = run.clock.monotonic() + min(SEEN_SECONDS, timeout(run))
    while True:
        if any(status == "rebooting" for _, status, _ in carrier.look().statuses):
            return True
        try:
            away = False
            if headroom.started(run.source) != since:
                return True
        except ServerError:
            away = True
        if run.clock.monotonic() > deadline:
            # A server that stays away is more likely to reboot than not; a second reboot is worse than a wait.
            return away
        run.clock.sleep(_POLL_SECONDS)
