"""The names of everything a plan makes on the two servers, derived from the plan id and generation."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA = "planrunner"
FENCE_TRIGGER = "planrunner_fence"
FENCE_TRUNCATE_TRIGGER = "planrunner_fence_truncate"


@dataclass(frozen=True, kw_only=True)
class Names:
    """``plan_id`` is eight hexadecimal digits, so every name fits 63 bytes and needs no quoting."""

    plan_id: str

    @property
    def prefix(self) -> str:
        """What every publication, slot and subscription of this plan begins with."""
        return f"pr_{self.plan_id}_g"

    def stream(self, generation: int) -> str:
        """The publication, slot and subscription of a generation share this name."""
        return f"{self.prefix}{generation}"

    def generation(self, stream: str) -> int:
        """The generation a stream's name tells."""
        return int(stream.removeprefix(self.prefix))

    def barrier(self, generation: int) -> str:
        """The marker table of a generation, in schema ``planrunner`` on both sides."""
        return f"barrier_{self.plan_id}_{generation}"

    @property
    def fence_function(self) -> str:
        """The trigger function that refuses writes on the source."""
        return f"fence_{self.plan_id}"

    @property
    def owner_mark(self) -> str:
        """The COMMENT that says an object is ours."""
        return f"planrunner plan {self.plan_id}"
