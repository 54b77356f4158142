"""What chance decides of a campaign, all of it drawn from one seed before anything begins."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.injecting import ON_RUNNER, ON_SERVERS

# A run passes so many failpoints where not much is left to do, where some is, and from the beginning.
PASSAGES = (20, 60, 130)
# So many are drawn for each fault that is to hit: not every one finds something to break.
_DRAWN = 6


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is to be broken ``after`` so many seconds; ``seed`` draws the rest."""

    kind: str
    after: float
    side: int
    seed: int
    passage: int


@dataclass(frozen=True, kw_only=True)
class Script:
    """Everything that chance decides, drawn before anything begins, so that it hangs on nothing but the seed."""

    seed: int
    streams: int
    split: bool
    reverse: bool
    rollbacks: int
    without_identity: str
    wanted: int
    faults: tuple[Fault, ...]

    @classmethod
    def drawn(cls, seed: int, faults: int) -> Script:
        chance = random.Random(seed)
        reverse = chance.random() < 0.5
        kinds = {**ON_SERVERS, **ON_RUNNER}
        return cls(
            seed=seed,
            streams=chance.choice([1, 1, 2]),
            split=chance.random() < 0.6,
            reverse=reverse,
            rollbacks=chance.randint(0, 2) if reverse else 0,
            without_identity="full" if reverse else chance.choice(["full", "insert_only"]),
            faults=tuple(_fault(chance, kinds) for _ in range(faults * _DRAWN)),
            wanted=faults,
        )

    def options(self) -> dict[str, str]:
        """The steps' ``with``."""
        split = ", split_above: 1MB" if self.split else ""
        copy = f"jobs: 3, streams: {self.streams}, chunk_above: 1MB{split}"
        over = f"reverse: {str(self.reverse).lower()}, write_pause_budget: 10s"
        return {
            "copy": f"{{{copy}, without_replica_identity: {self.without_identity}}}",
            "follow": "{timeout: 3m}",
            "over": f"{{{over}}}",
        }


def _fault(chance: random.Random, kinds: dict[str, int]) -> Fault:
    return Fault(
        kind=chance.choices(list(kinds), list(kinds.values()))[0],
        after=chance.uniform(0.1, 0.8),
        side=chance.randrange(2),
        seed=chance.randrange(1 << 30),
        passage=chance.randint(2, chance.choice(PASSAGES)),
    )
