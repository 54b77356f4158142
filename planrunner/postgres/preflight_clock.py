"""Preflight of the clocks: this machine's, the source's and the target's."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from planrunner.postgres.preflight_section import CAPACITY, Check
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

CLOCK = Check(
    code="PR0530",
    section=CAPACITY,
    title="The clocks agree",
    why="The end of a password's validity, IAM tokens and signed requests to AWS are judged by another's clock, and the"
    " times of a report and of three logs are only comparable where they agree.",
)
_TOLERATED_SECONDS = 5.0


def clock(server: Server) -> Finding:
    """How far the server's clock is from ours; the answer is taken to be given in the middle of the round trip."""
    server.version()  # the session is open before the time is taken
    began, before = server.clock.monotonic(), server.clock.now()
    told = server.value("SELECT clock_timestamp()")
    trip = server.clock.monotonic() - began
    assert isinstance(told, datetime)
    ahead = (told - before).total_seconds() - trip / 2
    side = server.side.value.capitalize()
    if abs(ahead) <= _TOLERATED_SECONDS + trip / 2:
        return CLOCK.passed(f"{side}'s clock agrees with this machine's")
    return CLOCK.warned(
        f"{side}'s clock is {human_seconds(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's",
        "See which of the two is wrong and let it follow a time server. Run on each: timedatectl status",
    )
