"""What was measured, and what follows: medians, paired ratios, a table for people and JSON for the record."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One copy. Seconds and bytes; ``failed`` says why it does not count, or is empty.

    ``source_cpu`` and ``target_cpu`` are of the servers' sessions; ``turns`` counts waits over the slow lines.
    ``phases`` are the seconds of each action, where the contestant tells them.
    """

    contestant: str
    round: int
    wall: float
    cpu: float
    peak_bytes: int
    source_cpu: float
    target_cpu: float
    turns: int
    phases: Mapping[str, float]
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All measurements of a case and what they were made with."""

    case: str
    title: str
    setting: Mapping[str, Any]
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    measurements: Sequence[Measurement]

    def of(self, contestant: str) -> list[Measurement]:
        """Those of one contestant that count."""
        return [m for m in self.measurements if m.contestant == contestant and not m.failed]

    def middle(self, contestant: str, what: Callable[[Measurement], float]) -> float | None:
        """The median; None without a measurement that counts."""
        found = [what(m) for m in self.of(contestant)]
        return median(found) if found else None

    def ratio(
        self, contestant: str, other: str, what: Callable[[Measurement], float] = lambda m: m.wall
    ) -> float | None:
        """The median over the rounds of one to the other: of one round, because the machine changes its mood."""
        others = {m.round: what(m) for m in self.of(other)}
        pairs = [what(m) / others[m.round] for m in self.of(contestant) if others.get(m.round)]
        return median(pairs) if pairs else None

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per contestant what the table shows."""
        names = dict.fromkeys(m.contestant for m in self.measurements)
        return {name: self._line(name) for name in names}

    def _line(self, name: str) -> dict[str, Any]:
        return {
            "counted": len(self.of(name)),
            "wall": _short(self.middle(name, lambda m: m.wall)),
            "wall_to_pgcopydb": _short(self.ratio(name, "pgcopydb")),
            "wall_to_floor": _short(self.ratio(name, "floor")),
            "cpu": _short(self.middle(name, lambda m: m.cpu)),
            "cpu_to_pgcopydb": _short(self.ratio(name, "pgcopydb", lambda m: m.cpu)),
            "peak_mb": _short(self.middle(name, lambda m: m.peak_bytes / 1e6)),
            "servers_cpu": _short(self.middle(name, lambda m: m.source_cpu + m.target_cpu)),
            "turns": self.middle(name, lambda m: m.turns),
            "failures": sorted({m.failed for m in self.measurements if m.contestant == name and m.failed}),
        }

    def write(self, folder: Path, name: str) -> Path:
        """One JSON file, for the record."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        whole = {
            "case": self.case,
            "title": self.title,
            "machine": {"cores": os.cpu_count(), "system": platform.system(), "machine": platform.machine()},
            "setting": self.setting,
            "versions": self.versions,
            "absent": self.absent,
            "medians": self.summary(),
            "measurements": [_rounded(asdict(m)) for m in self.measurements],
        }
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path

    def table(self) -> Table:
        """The same for a terminal."""
        table = Table(title=f"({self.case}) {self.title}; {self.setting['rounds']} rounds, medians")
        table.add_column("contestant")
        for heading in (
            "wall s",
            "to pgcopydb",
            "to floor",
            "CPU s",
            "to pgcopydb",
            "peak MB",
            "servers' CPU s",
            "turns",
        ):
            table.add_column(heading, justify="right")
        for name, line in self.summary().items():
            told = f"{name} {self.versions[name]}"
            if line["failures"]:
                told += f"\n  [red]failed: {line['failures'][0]}[/red]"
            keys = (
                "wall",
                "wall_to_pgcopydb",
                "wall_to_floor",
                "cpu",
                "cpu_to_pgcopydb",
                "peak_mb",
                "servers_cpu",
            )
            table.add_row(told, *(_shown(line[key]) for key in keys), _shown(line["turns"] or None))
        for name, why in self.absent.items():
            table.add_row(f"{name}: {why}", *([""] * 8), style="dim")
        return table


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {name: _rounded(each) for name, each in value.items()}
        case _:
            return value
