"""The wheel and the sdist, built once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds both; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=180,
    )
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (file,) = dist.glob("*.whl")
    return file
