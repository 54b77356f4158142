"""The names of everything a plan makes on the two servers, derived from the plan id and generation."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMA = "planrunner"
FENCE_TRIGGER = "planrunner_fence"
FENCE_TRUNCATE_TRIGGER = "planrunner_fence_truncate"
TRUNCATE_TRIGGER = "planrunner_truncate"
STOP_TRIGGER = "planrunner_stop"


@dataclass(frozen=True, kw_only=True)
class Names:
    """``plan_id`` is eight hexadecimal digits, so every name fits 63 bytes and needs no quoting."""

    plan_id: str

    @property
    def plan_prefix(self) -> str:
        """What every publication, slot and subscription of this plan begins with."""
        return f"pr_{self.plan_id}_"

    @property
    def prefix(self) -> str:
        """What those of a generation begin with."""
        return f"{self.plan_prefix}g"

    def stream(self, generation: int) -> str:
        """The publication, slot and subscription of a generation share this name."""
        return f"{self.prefix}{generation}"

    def inserts(self, generation: int) -> str:
        """The generation's second publication, of tables of which only inserts are followed."""
        return f"{self.stream(generation)}i"

    @property
    def back(self) -> str:
        """The publication and slot on the target, and subscription on the source, that lead back after a cutover."""
        return f"{self.plan_prefix}b1"

    @property
    def back_barrier(self) -> str:
        """The marker table of the way back, in schema ``planrunner`` on both sides."""
        return f"barrier_{self.plan_id}_b1"

    @property
    def login(self) -> str:
        """The role on the source by which the target's subscriptions dial it."""
        return f"{self.plan_prefix}login"

    @property
    def login_back(self) -> str:
        """The role on the target by which the source's subscription dials it."""
        return f"{self.plan_prefix}login_back"

    def generation(self, stream: str) -> int | None:
        """The generation whose publication, slot or subscription has this very name; None for another's."""
        match = re.fullmatch(r"\d+", stream.removeprefix(self.prefix))
        return int(match[0]) if match and stream.startswith(self.prefix) else None

    def whole(self, split: int) -> str:
        """The publication of a split table as a whole, for when one generation owns all its ranges."""
        return f"{self.plan_prefix}s{split}"

    def part(self, split: int, number: int) -> str:
        """The publication of one primary-key range of a split table."""
        return f"{self.plan_prefix}r{split}_{number}"

    @property
    def tracker(self) -> str:
        """The slot that tells which rows changed since they were proven."""
        return f"{self.plan_prefix}v"

    def barrier(self, generation: int) -> str:
        """The marker table of a generation, in schema ``planrunner`` on both sides."""
        return f"barrier_{self.plan_id}_{generation}"

    @property
    def fence_function(self) -> str:
        """The trigger function that refuses writes on a side that is closed, and lets them pass on one that is open."""
        return f"fence_{self.plan_id}"

    @property
    def truncate_function(self) -> str:
        """The source's trigger function that tells every generation of a TRUNCATE of a split table."""
        return f"truncated_{self.plan_id}"

    def truncate_part_function(self, generation: int) -> str:
        """The target's trigger function that takes a generation's own ranges of a truncated table away."""
        return f"truncate_{self.plan_id}_{generation}"

    def stop_function(self, generation: int) -> str:
        """The target's trigger function that stops a generation's stream at a marker."""
        return f"stop_{self.plan_id}_{generation}"

    @property
    def owner_mark(self) -> str:
        """The COMMENT that says an object is ours."""
        return f"planrunner plan {self.plan_id}"
