"""The range of Pythons: a migration on each that this machine has, and the locked packages ready built for all."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from release.pythons import VERSIONS, found, tried
from tests.pages import ROOT


def test_the_range_is_what_the_project_says() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert tuple(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)) == VERSIONS
    assert f'requires-python = ">={VERSIONS[0]}"' in project
    for page in ("README.md", "docs/how-to/install.md"):
        assert f"Python {VERSIONS[0]} to {VERSIONS[-1]}" in (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize(
    ("version", "system"),
    [
        *((version, "x86_64-manylinux_2_28") for version in VERSIONS),
        *((VERSIONS[-1], system) for system in ("aarch64-manylinux_2_28", "aarch64-apple-darwin", "windows")),
    ],
)
def test_every_locked_package_is_ready_built(version: str, system: str) -> None:
    where = ["--python-version", version, "--python-platform", system, "--target", "/nonexistent"]
    lock = ["--only-binary", ":all:", "--require-hashes", "-r", "locks/runtime.txt"]
    ended = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", "pip", "install", "--dry-run", *where, *lock],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.server
@pytest.mark.parametrize(
    "version", [version for version in VERSIONS if not sys.version.startswith(f"{version}.")]
)
def test_a_whole_migration_runs_on_it(version: str) -> None:
    python = found(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine, and none to be had from its Debian")
    told = tried(version, python)
    assert told.startswith(f"{version}."), told
    assert "verified, none of" in told
