"""What the fault tests did, counted from pytest's own reports: printed at a session's end, and kept in a page.

Every case of ``tests/faults`` counts as one case and one fault. A test that breaks more says so with
``record_property``: ``faults``, ``seed``, ``acknowledged``, ``rate``, ``lost``, ``duplicated``, ``changed``.
``python -m tests.figures docs/explanation/reliability.md`` puts the figures of the last run into the page.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pytest

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "reliability.json"
_FOLDER = "tests/faults/"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_HEAD = (
    "module",
    "cases",
    "failed",
    "faults",
    "seconds",
    "seeds",
    "transactions",
    "tx/s",
    "lost",
    "doubled",
    "changed",
)


@dataclass(kw_only=True)
class Module:
    """The figures of a module of tests."""

    name: str
    cases: int = 0
    failed: int = 0
    faults: int = 0
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    acknowledged: int = 0
    rates: list[float] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    changed: int = 0

    def row(self) -> tuple[str, ...]:
        """What is shown of it; nothing where nothing was counted."""
        rate = f"{sum(self.rates) / len(self.rates):.0f}" if self.rates else ""
        found = (self.lost, self.duplicated, self.changed)
        judged = tuple(map(str, found)) if self.rates or any(found) else ("", "", "")
        counts = (
            f"{self.cases}",
            f"{self.failed}",
            f"{self.faults}",
            f"{self.seconds:.0f}",
            _spans(self.seeds),
        )
        return (self.name, *counts, f"{self.acknowledged or ''}", rate, *judged)


class Figures:
    """Hears every report of a session, those of other processes too."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase of a case."""
        path = report.nodeid.partition("::")[0]
        if not path.startswith(_FOLDER) or report.skipped:
            return
        name = path.removeprefix(_FOLDER).removesuffix(".py")
        module = self.modules.setdefault(name, Module(name=name))
        module.seconds += report.duration
        if report.when == "call" or report.failed:
            module.failed += report.failed
        if report.when == "call":
            _add(module, dict(report.user_properties))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them, and keep them."""
        if not self.modules:
            return
        kept = {"run": run_of(), "modules": [asdict(self.modules[name]) for name in sorted(self.modules)]}
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        terminalreporter.section("what was broken on purpose")
        for line in _aligned([_HEAD, *rows(kept)]):
            terminalreporter.write_line(line)


def _add(module: Module, told: Mapping[str, Any]) -> None:
    module.cases += 1
    module.faults += int(told.get("faults", 1))
    module.acknowledged += int(told.get("acknowledged", 0))
    for name in ("lost", "duplicated", "changed"):
        setattr(module, name, getattr(module, name) + int(told.get(name, 0)))
    if "seed" in told:
        module.seeds.append(int(told["seed"]))
    if told.get("rate"):
        module.rates.append(float(told["rate"]))


def _spans(numbers: Iterable[int]) -> str:
    """``1-10`` rather than ten numbers."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def run_of() -> dict[str, Any]:
    """Which run this is: when, of what, on what."""
    from planrunner.sandbox.binaries import wheel_bin

    servers = [_said(str(wheel_bin(major) / "postgres"), "--version").split()[-1] for major in (16, 18)]
    changed = bool(_said("git", "status", "--porcelain"))
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": f"{_said('git', 'rev-parse', '--short=10', 'HEAD')}{' with changes' if changed else ''}",
        "python": platform.python_version(),
        "servers": servers,
        "cores": os.cpu_count(),
        "soak": bool(os.environ.get("PLANRUNNER_SOAK")),
    }


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def rows(kept: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each module, and their sums."""
    modules = [Module(**module) for module in kept["modules"]]
    whole = Module(name="in all")
    for module in modules:
        for name in ("cases", "failed", "faults", "seconds", "acknowledged", "lost", "duplicated", "changed"):
            setattr(whole, name, getattr(whole, name) + getattr(module, name))
        whole.rates += module.rates
    return [*(module.row() for module in modules), whole.row()]


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in table) for place in range(len(_HEAD))]
    return [
        "  ".join(
            cell.ljust(w) if place == 0 else cell.rjust(w)
            for place, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def page(text: str, kept: Mapping[str, Any]) -> str:
    """The page's text with these figures between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the page has no {BEGIN} … {END}")
    run = kept["run"]
    what = "Run with PLANRUNNER_SOAK" if run["soak"] else "Run"
    told = (
        f"{what} at {run['at']}, commit {run['commit']}, PostgreSQL {' and '.join(run['servers'])}, Python"
        f" {run['python']}, {run['cores']} cores."
    )
    lines = ["| " + " | ".join(row) + " |" for row in (_HEAD, *rows(kept))]
    lines.insert(1, "|---" + "|---:" * (len(_HEAD) - 1) + "|")
    return f"{before}{BEGIN}\n{told}\n\n" + "\n".join(lines) + f"\n{END}{after}"


def main(path: Path) -> None:
    """Put the figures of the last run into the page."""
    if not KEPT.exists():
        raise SystemExit(f"{KEPT.relative_to(ROOT)} is not there: `make test` writes it")
    path.write_text(page(path.read_text("utf-8"), json.loads(KEPT.read_text())), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
