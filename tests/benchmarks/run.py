"""``python -m tests.benchmarks.run``: copies each case with each contestant in interleaved rounds, and compares."""

from __future__ import annotations

import argparse
import compileall
import json
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import planrunner
from tests.benchmarks.contestants import CONTESTANTS, Contestant, Settings, find_pgcopydb
from tests.benchmarks.data import CASES
from tests.benchmarks.results import Measurement, Results
from tests.benchmarks.stage import SETTINGS, Stage, stage

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESULTS = Path(__file__).with_name("results")
_LOG_CHARACTERS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, print a table and write a JSON file a case; 1 when a copy failed."""
    asked = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    failures = 0
    # As an installed package is: no round compiles it.
    compileall.compile_dir(str(Path(planrunner.__file__).parent), quiet=1)
    for name in asked.case.split(","):
        results = compare(name, asked, console)
        console.print(results.table())
        whole = asked.scale == 1.0
        console.print(
            f"written: {results.write(asked.out, name if whole else f'{name}.scale-{asked.scale:g}')}"
        )
        failures += sum(1 for m in results.measurements if m.failed)
    return 1 if failures else 0


def compare(name: str, asked: argparse.Namespace, console: Console) -> Results:
    """All rounds of one case: A B C, B C A, so that a change of the machine's mood meets all alike.

    Who comes first has the coldest caches, so each does in its turn.
    """
    settings = Settings(
        jobs=asked.jobs,
        index_jobs=asked.index_jobs,
        own_jobs=asked.own_jobs,
        pgcopydb=find_pgcopydb(asked.pgcopydb),
    )
    chosen = [kind(settings) for kind in CONTESTANTS if kind.name in asked.contestants.split(",")]
    with stage(CASES[name], scale=asked.scale, delay=asked.delay) as scene:
        console.print(f"({name}) {scene.bytes / 1e6:.0f} MB, {len(scene.contents.tables)} tables")
        absent = {each.name: why for each in chosen if (why := each.absent(scene))}
        present = [each for each in chosen if each.name not in absent]
        # Asked before the rounds: a checkout may move on while they last.
        versions = _versions(present, scene)
        measurements = []
        for number in range(1, asked.rounds + 1):
            first = (number - 1) % len(present)
            for each in present[first:] + present[:first]:
                measurements.append(one := measure(each, scene, number))
                console.print(
                    f"  round {number}  {each.name:<16} {one.wall:8.2f} s  CPU {one.cpu:6.2f} s  {one.failed}"
                )
        return Results(
            case=name,
            title=CASES[name].title,
            setting=_setting(asked, scene),
            versions=versions,
            absent=absent,
            measurements=measurements,
        )


def measure(contestant: Contestant, scene: Stage, number: int) -> Measurement:
    """One copy into a fresh database; it counts only when everything is there."""
    folder = Path(tempfile.mkdtemp(prefix="planrunner-bench-"))
    try:
        scene.fresh_target()
        before, turns = scene.server_cpu(), scene.turns()
        usage = contestant.copy(scene, folder)
        after = scene.server_cpu()
        log = folder / "log"
        said = " ".join(log.read_text(errors="replace")[-_LOG_CHARACTERS:].split()) if log.exists() else ""
        failed = f"exit code {usage.code}: {said}" if usage.code else scene.missing()
        measured = Measurement(
            contestant=contestant.name,
            round=number,
            wall=usage.wall,
            cpu=usage.cpu,
            peak_bytes=usage.peak_bytes,
            source_cpu=after[0] - before[0],
            target_cpu=after[1] - before[1],
            turns=scene.turns() - turns,
            phases=phases(folder),
            failed=failed,
        )
        contestant.tidy(scene, folder)
        scene.leave_no_slot()
        return measured
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def phases(folder: Path) -> dict[str, float]:
    """Seconds of each action between intent and outcome, from planrunner's journal; empty without one."""
    found: dict[str, float] = {}
    begun: dict[str, datetime] = {}
    for journal in folder.glob("*.events.jsonl"):
        for line in journal.read_text("utf-8").splitlines():
            event = json.loads(line)
            action = event["fields"].get("action")
            if event["kind"] == "intent":
                begun[action] = datetime.fromisoformat(event["at"])
            elif event["kind"] == "outcome" and action in begun:
                found[action] = (datetime.fromisoformat(event["at"]) - begun[action]).total_seconds()
    return found


def _setting(asked: argparse.Namespace, scene: Stage) -> dict[str, object]:
    return {
        "rounds": asked.rounds,
        "scale": asked.scale,
        "jobs": asked.jobs,
        "index_jobs": asked.index_jobs,
        "planrunner_chooses_jobs": asked.own_jobs,
        "delay_each_way": asked.delay if scene.lines else 0,
        "bytes": scene.bytes,
        "tables": len(scene.contents.tables),
        "servers": {**SETTINGS, "fsync": "off", "full_page_writes": "off"},
    }


def _versions(present: Sequence[Contestant], scene: Stage) -> dict[str, str]:
    servers = {"source": scene.source_server, "target": scene.target_server}
    told = {side: ".".join(map(str, server.version)) for side, server in servers.items()}
    return {**told, **{each.name: each.version() for each in present}}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    every = ",".join(kind.name for kind in CONTESTANTS)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    parser.add_argument("--case", default=",".join(CASES), help="which cases, by comma (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data, 1 is the real one")
    parser.add_argument("--contestants", default=every, help="which, by comma (%(default)s)")
    parser.add_argument("--jobs", type=int, default=4, help="copying streams for everyone (%(default)s)")
    parser.add_argument("--index-jobs", type=int, default=4, help="index builders for everyone (%(default)s)")
    parser.add_argument("--own-jobs", action="store_true", help="let planrunner choose its own numbers")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds each way in case c (%(default)s)")
    parser.add_argument("--pgcopydb", metavar="PROGRAM", help="this one instead of the one on the path")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the JSON files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
