"""A small plan that loads, and how to vary it."""

from collections.abc import Callable
from pathlib import Path

import pytest

PLAN = (Path(__file__).parents[2] / "data" / "valid" / "small.yaml").read_text("utf-8")


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[..., Path]:
    """Write the plan with some of its text replaced; each pair must be found."""

    def write(*changes: tuple[str, str], name: str = "plan.yaml") -> Path:
        text = PLAN
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
