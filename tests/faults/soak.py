"""``python -m tests.faults.soak``: campaigns of random faults for hours; each tells its seed before it begins.

A failure stops nothing: what there is to know of it is kept in a folder, and the end tells how to replay it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.clock import SystemClock
from planrunner.sandbox.servers import PostgresServer
from tests.faults.campaign import ROOT, SETTINGS, CampaignFailed, Outcome, campaign
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCK = SystemClock()
PAIRS = ((16, 18), (15, 17), (16, 16), (14, 18))
_HOUR = 3600
# A pair of servers lives for one campaign.
_LIFE_SECONDS = 2 * _HOUR


@dataclass(kw_only=True)
class Soak:
    """What has been done so far."""

    faults: int
    kept: Path
    done: list[Outcome] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def one(self, seed: int, majors: tuple[int, int]) -> None:
        """A campaign on servers of its own."""
        _say(
            f"seed {seed}, {majors[0]} to {majors[1]}, {self.faults} faults; again: {_replay(seed, majors, self.faults)}"
        )
        folder = self.kept / f"seed-{seed}"
        (folder / "plan").mkdir(parents=True)
        try:
            outcome = self._broken(seed, majors, folder / "plan")
        except Exception as error:  # noqa: BLE001  # the next seed is tried whatever befell this one
            self.failed.append(seed)
            (folder / "failure.txt").write_text(f"{_replay(seed, majors, self.faults)}\n{error!r}\n{error}\n")
            _say(f"  FAILED: {str(error).strip().splitlines()[-2:]}; see {folder}/failure.txt")
            if isinstance(error, CampaignFailed):
                self.done.append(error.outcome)
            return
        self.done.append(outcome)
        _say(f"  {outcome}")

    def _broken(self, seed: int, majors: tuple[int, int], folder: Path) -> Outcome:
        older, newer = (server_bin(major) for major in majors)
        settings = {"wal_level": "logical", **SETTINGS}
        with (
            PostgresServer(older, settings=settings, max_life=_LIFE_SECONDS) as source,
            PostgresServer(newer, settings=settings, max_life=_LIFE_SECONDS) as target,
        ):
            return campaign(seed, (source, target), folder, self.faults)

    def summary(self) -> str:
        faults = sum(len(outcome.faults) for outcome in self.done)
        acknowledged = sum(outcome.verdict.acknowledged for outcome in self.done)
        found = [
            sum(len(getattr(outcome.verdict, kind)) for outcome in self.done)
            for kind in ("lost", "duplicated", "changed")
        ]
        counts = f"{len(self.done)} seeds, {faults} faults, {acknowledged} acknowledged transactions"
        judged = "{} lost, {} duplicated, {} changed".format(*found)
        return f"{counts}: {judged}; failed seeds: {self.failed or 'none'}"


def main() -> int:
    given = argparse.ArgumentParser(prog="soak", description=__doc__)
    given.add_argument("--hours", type=float, default=1.0, help="begin no further seed after so long")
    given.add_argument("--seeds", type=int, help="so many seeds, however long they take")
    given.add_argument("--seed", type=int, help="the first one; each further is the next number")
    given.add_argument("--faults", type=int, default=30, help="how much is broken in each")
    given.add_argument("--pair", help="majors of source and target, as 16:18; left out: in turn")
    given.add_argument("--tests", action="store_true", help="first run every test, those of the soak too")
    options = given.parse_args()
    code = _tests() if options.tests else 0
    soak = Soak(faults=options.faults, kept=Path(tempfile.mkdtemp(prefix="planrunner-soak-")))
    pairs = [_pair(options.pair)] if options.pair else list(PAIRS)
    for seed in _seeds(options.seed, options.seeds, options.hours * _HOUR):
        soak.one(seed, pairs[seed % len(pairs)])
    _say(soak.summary())
    return code or int(bool(soak.failed))


def _seeds(first: int | None, many: int | None, seconds: float) -> Iterator[int]:
    seed = random.SystemRandom().randrange(1 << 24) if first is None else first
    give_up, done = CLOCK.monotonic() + seconds, 0
    while done < many if many is not None else CLOCK.monotonic() < give_up:
        yield seed
        seed, done = seed + 1, done + 1


def _pair(text: str) -> tuple[int, int]:
    older, _, newer = text.partition(":")
    return int(older), int(newer)


def _replay(seed: int, majors: tuple[int, int], faults: int) -> str:
    return f"make soak SOAK_ARGS='--seeds 1 --seed {seed} --pair {majors[0]}:{majors[1]} --faults {faults}'"


def _tests() -> int:
    """Every test of the faults, with the cases that only the soak has; PLANRUNNER_SOAK is set by make."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/faults"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
