"""``python -m tests.benchmarks.compare``: both sides hold the same table but for four rows; who finds them, how fast."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, ClassVar, LiteralString

import psycopg
from rich.console import Console

import planrunner
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import SUPERUSER, PostgresServer
from tests.benchmarks.contestants import Pgcopydb, Planrunner, Settings, find_pgcopydb
from tests.benchmarks.measure import Usage, measured
from tests.benchmarks.stage import SETTINGS, SOURCE_MAJOR, TARGET_MAJOR, Place, session_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RESULTS = Path(__file__).with_name("results")
_ROWS = 2_000_000
_SECONDS_AT_MOST = 600.0
_TABLE: LiteralString = """
CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, at timestamptz NOT NULL, amount numeric(12, 2),
  status text, note text, paid boolean);
INSERT INTO orders SELECT n, n % 20000, timestamptz '2024-01-01' + n * interval '7 seconds', n / 100.0,
  (ARRAY['new', 'paid', 'sent'])[1 + n % 3], md5(n::text), n % 2 = 0 FROM generate_series(1, {rows}) n;
"""
_DAMAGE: LiteralString = """
DELETE FROM orders WHERE id = {rows} / 4;
INSERT INTO orders SELECT {rows} + 1, customer, at, amount, status, note, paid FROM orders WHERE id = 1;
UPDATE orders SET note = note || ' ' WHERE id = {rows} / 2;
UPDATE orders SET amount = amount + 0.01 WHERE id = {rows} - 1;
"""
_PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: compare}}
connections:
  source: {{dsn: "{source}", password: {{secret: {{env: SOURCE_PASSWORD}}}}}}
  target: {{dsn: "{target}", password: {{secret: {{env: TARGET_PASSWORD}}}}}}
steps:
  - {{id: cutover, uses: cutover_verify}}
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The two databases, their servers, and the keys of the rows that differ."""

    servers: tuple[PostgresServer, ...]
    source: Place
    target: Place
    differing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One comparison. ``inner`` is what the program says the comparing alone took, where it does.

    ``servers_cpu`` is what both servers' sessions spent, ``told`` how many of the differing keys were named;
    ``failed`` says why the measurement does not count.
    """

    contestant: str
    case: str
    round: int
    wall: float
    cpu: float
    servers_cpu: float
    peak_bytes: int
    inner: float | None
    told: int
    failed: str = ""


class Comparer(ABC):
    """Compares the two databases and prints what it found."""

    name: ClassVar[str]

    def __init__(self, program: Path | None) -> None:
        self.program = program

    @abstractmethod
    def version(self) -> str:
        """What it calls itself."""

    @abstractmethod
    def compare(self, scene: Scene, folder: Path) -> Usage:
        """Run it; ``folder`` takes its output as ``log``."""

    def inner(self, log: str) -> float | None:  # noqa: ARG002  # most don't tell
        """Seconds of the comparison alone, by its own word."""
        return None

    def saw(self, code: int, log: str) -> bool:
        """Whether it says that the two sides differ."""
        return code != 0 or bool(log)


class OurVerify(Comparer):
    """``planrunner verify``: the whole database, catalogue included, as a user runs it."""

    name = "planrunner"

    def version(self) -> str:
        """With the commit, where there is one."""
        return Planrunner(Settings(jobs=1, index_jobs=1, own_jobs=True, pgcopydb=None)).version()

    def compare(self, scene: Scene, folder: Path) -> Usage:
        """The command line, with the output for programs."""
        (folder / "plan.yaml").write_text(
            _PLAN.format(source=scene.source.bare_uri, target=scene.target.bare_uri)
        )
        environment = {
            **_environment(),
            "PYTHONPATH": str(Path(planrunner.__file__).parents[1]),
            "SOURCE_PASSWORD": scene.source.password,
            "TARGET_PASSWORD": scene.target.password,
        }
        words = [sys.executable, "-m", "planrunner", "verify", "plan.yaml", "--output", "json"]
        return measured(words, environment=environment, log=folder / "log", timeout=_SECONDS_AT_MOST)

    def inner(self, log: str) -> float | None:
        """From its JSON."""
        found = re.search(r'"seconds": ([\d.]+)', log)
        return float(found[1]) if found else None

    def saw(self, code: int, log: str) -> bool:
        """Exit code 7."""
        return code == 7 and '"equal": false' in log


class PgcopydbCompare(Comparer):
    """``pgcopydb compare data``: a digest of each table; it names tables, not rows."""

    name = "pgcopydb"

    def version(self) -> str:
        """The release number."""
        return Pgcopydb(Settings(jobs=1, index_jobs=1, own_jobs=True, pgcopydb=self.program)).version()

    def compare(self, scene: Scene, folder: Path) -> Usage:
        """Both sides at once, by two of its own processes."""
        assert self.program is not None
        places = ["--source", scene.source.uri, "--target", scene.target.uri, "--dir", str(folder / "work")]
        words = [self.program, "compare", "data", *places]
        return measured(words, environment=_environment(), log=folder / "log", timeout=_SECONDS_AT_MOST)

    def saw(self, code: int, log: str) -> bool:
        """A line with an exclamation mark for each table that differs."""
        return code != 0 or bool(re.search(r"orders\s*\|\s*!", log))


class Reladiff(Comparer):
    """``reladiff``: digests of key ranges, halved until the rows are found."""

    name = "reladiff"

    def version(self) -> str:
        """Its own word."""
        assert self.program is not None
        told = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        return told.stdout.strip()

    def compare(self, scene: Scene, folder: Path) -> Usage:
        """All columns, with its own defaults."""
        assert self.program is not None
        places = [_plain(scene.source), "orders", _plain(scene.target), "orders"]
        words = [self.program, *places, "-k", "id", "-c", "%"]
        return measured(words, environment=_environment(), log=folder / "log", timeout=_SECONDS_AT_MOST)

    def saw(self, code: int, log: str) -> bool:
        """A line that begins with + or - for each row."""
        return code == 0 and bool(re.search(r"^[+-] ", log, re.MULTILINE))


COMPARERS: tuple[type[Comparer], ...] = (OurVerify, PgcopydbCompare, Reladiff)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print medians and ratios, write a JSON file; 1 when a comparison failed or overlooked something."""
    asked = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    compileall.compile_dir(str(Path(planrunner.__file__).parent), quiet=1)
    programs = {"pgcopydb": find_pgcopydb(asked.pgcopydb), "reladiff": _found(asked.reladiff or "reladiff")}
    chosen = [kind(programs.get(kind.name)) for kind in COMPARERS]
    absent = {c.name: "not installed" for c in chosen if c.name in programs and c.program is None}
    present = [c for c in chosen if c.name not in absent]
    versions = {c.name: c.version() for c in present}
    measurements: list[Measurement] = []
    with ExitStack() as stack:
        scene = _scene(stack, asked.rows)
        for case in ("equal", "four rows differ"):
            if case != "equal":
                _execute(scene.target, _DAMAGE, asked.rows)
            for number in range(1, asked.rounds + 1):
                first = (number - 1) % len(present)
                for each in present[first:] + present[:first]:
                    measurements.append(one := _measure(each, scene, case, number))
                    console.print(f"  {case}  {number}  {one.contestant:<12} {one.wall:7.2f} s  {one.failed}")
    summary = _summary(measurements)
    console.print_json(json.dumps(summary))
    for name, why in absent.items():
        console.print(f"{name}: {why}")
    path = asked.out / ("v.json" if asked.rows == _ROWS else f"v.rows-{asked.rows}.json")
    _write(path, asked, versions, absent, measurements, summary)
    console.print(f"written: {path}")
    return 1 if any(m.failed for m in measurements) else 0


def _scene(stack: ExitStack, rows: int) -> Scene:
    places, servers = [], []
    for major in (SOURCE_MAJOR, TARGET_MAJOR):
        server = stack.enter_context(PostgresServer(wheel_bin(major), settings=SETTINGS, max_life=7200))
        place = Place(port=server.port, database="postgres", password=server.password)
        _execute(place, _TABLE, rows)
        places.append(place)
        servers.append(server)
    keys = tuple(str(key) for key in (rows // 4, rows + 1, rows // 2, rows - 1))
    return Scene(servers=tuple(servers), source=places[0], target=places[1], differing=keys)


def _execute(place: Place, script: LiteralString, rows: int) -> None:
    with psycopg.connect(place.uri, autocommit=True) as session:
        for statement in script.replace("{rows}", str(rows)).split(";"):
            session.execute(statement.encode())
        session.execute("VACUUM (FREEZE, ANALYZE)")
        session.execute("CHECKPOINT")


def _measure(comparer: Comparer, scene: Scene, case: str, number: int) -> Measurement:
    folder = Path(tempfile.mkdtemp(prefix="planrunner-bench-"))
    try:
        before = sum(map(session_cpu, scene.servers))
        usage = comparer.compare(scene, folder)
        spent = sum(map(session_cpu, scene.servers)) - before
        log = (folder / "log").read_text(errors="replace")
        told = sum(1 for key in scene.differing if re.search(rf"\b{key}\b", log))
        return Measurement(
            contestant=comparer.name,
            case=case,
            round=number,
            wall=usage.wall,
            cpu=usage.cpu,
            servers_cpu=spent,
            peak_bytes=usage.peak_bytes,
            inner=comparer.inner(log),
            told=told,
            failed=_failure(comparer, case, usage.code, log, told),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _failure(comparer: Comparer, case: str, code: int, log: str, told: int) -> str:
    """Why a measurement does not count: what it said is not what is so."""
    saw = comparer.saw(code, log)
    if saw != (case != "equal"):
        return f"says {'different' if saw else 'equal'}, exit code {code}: {' '.join(log.split())[-300:]}"
    # What another overlooks is a figure, not a failure: its time counts all the same.
    if saw and comparer.name == OurVerify.name and told < 4:
        return f"names {told} of 4 rows: {' '.join(log.split())[-300:]}"
    return ""


def _summary(measurements: Sequence[Measurement]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Per case and contestant the medians, and how many times longer than planrunner, of each round."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for case in dict.fromkeys(m.case for m in measurements):
        counted = [m for m in measurements if m.case == case and not m.failed]
        ours = {m.round: m for m in counted if m.contestant == OurVerify.name}
        for name in dict.fromkeys(m.contestant for m in counted):
            mine = [m for m in counted if m.contestant == name]
            to_all = [m.wall / ours[m.round].wall for m in mine if m.round in ours]
            parts = [(m, ours[m.round].inner) for m in mine if m.round in ours]
            to_part = [m.wall / inner for m, inner in parts if inner]
            to_cpu = [_total(m) / _total(ours[m.round]) for m in mine if m.round in ours]
            inner = [m.inner for m in mine if m.inner is not None]
            found.setdefault(case, {})[name] = {
                "wall": round(median(m.wall for m in mine), 3),
                "comparing_alone": round(median(inner), 3) if inner else None,
                "cpu": round(median(m.cpu for m in mine), 3),
                "servers_cpu": round(median(m.servers_cpu for m in mine), 3),
                "peak_mb": round(median(m.peak_bytes for m in mine) / 1e6, 1),
                "times_planrunner": round(median(to_all), 2) if to_all else None,
                "times_comparing_alone": round(median(to_part), 2) if to_part else None,
                "times_processor_seconds": round(median(to_cpu), 2) if to_cpu else None,
                "rows_named": max(m.told for m in mine),
            }
    return found


def _total(one: Measurement) -> float:
    """Processor seconds of the program and of both servers: what others do at the machine hardly changes them."""
    return one.cpu + one.servers_cpu


def _write(
    path: Path,
    asked: argparse.Namespace,
    versions: Mapping[str, str],
    absent: Mapping[str, str],
    measurements: Sequence[Measurement],
    summary: Mapping[str, object],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "case": "v",
        "title": f"one table of {asked.rows} rows and 7 columns on both sides, equal and with four rows differing",
        "machine": {"cores": os.cpu_count()},
        "setting": {"rounds": asked.rounds, "rows": asked.rows, "servers": SETTINGS},
        "versions": {"source": str(SOURCE_MAJOR), "target": str(TARGET_MAJOR), **versions},
        "absent": dict(absent),
        "medians": summary,
        "measurements": [asdict(m) for m in measurements],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def _found(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found) if found else None


def _plain(place: Place) -> str:
    return f"postgresql://{SUPERUSER}:{place.password}@127.0.0.1:{place.port}/{place.database}"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--rows", type=int, default=_ROWS, help="rows of the table (%(default)s)")
    parser.add_argument("--pgcopydb", metavar="PROGRAM", help="this one instead of the one on the path")
    parser.add_argument("--reladiff", metavar="PROGRAM", help="this one instead of the one on the path")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
