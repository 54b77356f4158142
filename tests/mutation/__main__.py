"""Mutants of what must lose nothing: each is a small fault in planrunner, and the tests have to notice it.

    python -m tests.mutation [NAME ...] [--seed N] [--sample N] [--again] [--python PROGRAM]

The engine is cosmic-ray; it works in a copy of the tree. Of the modules whose tests need servers a sample is drawn.
``--again`` tries only those that survived the last time, with the tests as they are now.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome

from tests.mutation.choosing import mutants
from tests.mutation.parts import PARTS, Part

if TYPE_CHECKING:
    from cosmic_ray.work_item import WorkItem, WorkResult

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / "build" / "mutation"
LEAST = 85.0
_HEAD = "| module | mutants | tried | killed | timeout | survived | score |"
_COPIED = (
    "planrunner",
    "tests",
    "plans",
    "schemas",
    "docs",
    "pyproject.toml",
    "README.md",
    "constraints.txt",
)


@dataclass(kw_only=True)
class Score:
    """How the mutants of one module ended, of ``possible`` ones."""

    part: Part
    possible: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def killed(self) -> int:
        """Those that a test noticed, or that never came to an end."""
        return self.ends["killed"] + self.ends["timeout"]

    def row(self) -> str:
        """A line of the table."""
        tried = self.ends.total()
        share = f"{100 * self.killed / tried:.1f} %" if tried else "-"
        figures = (
            self.possible,
            tried,
            self.ends["killed"],
            self.ends["timeout"],
            self.ends["survived"],
            share,
        )
        return f"| {self.part.path} | " + " | ".join(map(str, figures)) + " |"


def main() -> int:
    """0 when the score of all together is high enough."""
    asked = _asked()
    parts = [part for part in PARTS if not asked.names or part.name in asked.names]
    _say(f"seed {asked.seed}")
    KEPT.mkdir(parents=True, exist_ok=True)
    # A mutant never stands where somebody works.
    with tempfile.TemporaryDirectory(prefix="planrunner-mutants-") as tree:
        _copy(Path(tree))
        os.chdir(tree)
        os.environ["PYTHONPATH"] = tree
        scores = [_tried(part, asked) for part in parts]
        os.chdir(ROOT)
    _say(f"\n{_HEAD}\n{'|---' * _HEAD.count(' | ')}|---|")
    for score in scores:
        _say(score.row())
    tried, killed = sum(s.ends.total() for s in scores), sum(s.killed for s in scores)
    share = 100 * killed / tried if tried else 100.0
    _say(f"{killed} of {tried} killed: {share:.1f} % (seed {asked.seed}); {LEAST:g} % are asked for")
    return 0 if share >= LEAST else 1


def _say(text: str, *, to: TextIO = sys.stdout) -> None:
    to.write(text + "\n")
    to.flush()


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("names", nargs="*", help="modules, e.g. codec ledger; all of them when left out")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--sample", type=int, help="how many mutants of a module whose tests need servers")
    parser.add_argument("--again", action="store_true", help="only the survivors of the last run")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the tests")
    return parser.parse_args()


def _copy(tree: Path) -> None:
    """The tree as it is now, with what is not committed."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    (tree / ".servers").symlink_to((ROOT / ".servers").resolve())


def _tried(part: Part, asked: argparse.Namespace) -> Score:
    command = f"{asked.python} -m pytest -x -q -p no:cacheprovider {' '.join(part.tests)}"
    begun = time.monotonic()
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)
    # A mutant may be slow without being wrong; one that waits forever is.
    patience = 30 + 3 * (time.monotonic() - begun)
    session = KEPT / f"{part.name}.sqlite"
    score = Score(part=part)
    if not asked.again:
        session.unlink(missing_ok=True)
    with use_db(str(session)) as kept:
        score.possible = _begin(kept, part, asked)
        for item, former in _to_try(kept):
            result = former or mutate_and_test(item.mutations, command, patience)
            kept.set_result(item.job_id, result)
            how = _end(result)
            score.ends[how] += 1
            if how == "survived":
                _say(f"\n{item.mutations[0].operator_name}: survived\n{result.diff}")
            _say(score.row(), to=sys.stderr)
    return score


def _begin(kept: WorkDB, part: Part, asked: argparse.Namespace) -> int:
    sample = part.sample if part.sample is None else asked.sample or part.sample
    chosen, possible = mutants(part.path, sample=sample, chance=random.Random(f"{asked.seed} {part.name}"))
    if not asked.again:
        kept.add_work_items(chosen)
    return possible


def _to_try(kept: WorkDB) -> list[tuple[WorkItem, WorkResult | None]]:
    """Each mutant, with its end where that stands: one that survived is tried again."""
    ended = dict(kept.results)
    stands = {job: result for job, result in ended.items() if _end(result) != "survived"}
    return [(item, stands.get(item.job_id)) for item in kept.work_items]


def _end(result: WorkResult) -> str:
    if result.test_outcome is TestOutcome.SURVIVED:
        return "survived"
    if result.test_outcome is TestOutcome.KILLED:
        return "timeout" if result.output == "timeout" else "killed"
    raise RuntimeError(f"a mutant could not be tried: {result.output}")


if __name__ == "__main__":
    sys.exit(main())
