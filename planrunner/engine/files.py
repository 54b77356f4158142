"""Where a plan's run keeps its files: all beside the plan, all named after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".state.json"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of one run. They share a folder and the part of their names before the suffix."""

    state: Path
    lock: Path
    events: Path
    report_markdown: Path
    report_json: Path
    report_html: Path
    elsewhere: str | None = None

    @property
    def place(self) -> str:
        """Where the state is kept, as a person calls it; ``elsewhere`` when that is no file of these."""
        return self.elsewhere or str(self.state)


def run_files(plan: Path, state: Path | None = None, *, elsewhere: str | None = None) -> RunFiles:
    """``orders.yaml`` gives ``orders.yaml.state.json`` and its companions; ``state`` renames them all.

    With the state ``elsewhere`` (a URL) journal and reports still lie beside the plan.
    """
    chosen = state or plan.with_name(plan.name + _SUFFIX)
    stem = chosen.name.removesuffix(_SUFFIX)
    return RunFiles(
        state=chosen,
        lock=chosen.with_name(f"{chosen.name}.lock"),
        events=chosen.with_name(f"{stem}.events.jsonl"),
        report_markdown=chosen.with_name(f"{stem}.report.md"),
        report_json=chosen.with_name(f"{stem}.report.json"),
        report_html=chosen.with_name(f"{stem}.report.html"),
        elsewhere=elsewhere,
    )
