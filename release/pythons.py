"""Every Python that planrunner is for, as far as this machine has it: the locked packages, and a whole migration on each.

``python -m release.pythons [--all] [VERSION…]``. With ``--all`` the types are checked for each, and the unit tests run on
it. A version that is not to be had is told, and is a failure only when it was named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from release import debian
from release.components import ROOT

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
WORK = ROOT / "build/pythons"
# What the unit tests need beside what planrunner is installed with.
_TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "check-jsonschema")


def main() -> int:
    """Run them, and tell of each what came of it."""
    options = argparse.ArgumentParser()
    options.add_argument("--all", action="store_true")
    options.add_argument("versions", nargs="*")
    given = options.parse_args()
    failed = False
    for version in given.versions or VERSIONS:
        python = found(version)
        if python is None:
            told = "not run: no such Python on this machine"
            failed |= bool(given.versions)
        else:
            told = tried(version, python)
            told += _checked(version) if given.all else ""
            failed |= "failed" in told
        sys.stdout.write(f"Python {version}: {told}\n")
        sys.stdout.flush()
    return 1 if failed else 0


def found(version: str) -> Path | None:
    """An interpreter of that version: this one, one of PATH, pyenv or uv, or Debian's own of its unstable release."""
    if sys.version.startswith(f"{version}."):
        return Path(sys.executable)
    asked = ["python", "find", "--no-project", "--no-python-downloads", version]
    told = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", *asked], capture_output=True, text=True, check=False
    )
    pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    )
    if told.returncode == 0:
        return Path(told.stdout.strip())
    return pyenv[-1] if pyenv else debian.python(version, WORK / "debian")


def tried(version: str, python: Path) -> str:
    """What came of it: the version to its last digit and the migration's figures, or what failed."""
    folder = WORK / version
    shutil.rmtree(folder, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--no-project", "--python", python, folder], check=True)
    there = folder / "bin/python"
    lock = ["--require-hashes", "-r", ROOT / "locks/sandbox.txt"]
    install = [*uv, "pip", "install", "--no-config", "--python", there, *lock]
    if subprocess.run(install, check=False).returncode:
        return "failed: the locked packages can't be installed"
    return _migrated(there)


def _checked(version: str) -> str:
    """What mypy and the unit tests say, in the environment that was made for the version."""
    python = WORK / version / "bin/python"
    install = [sys.executable, "-m", "uv", "--quiet", "pip", "install", "--no-config", "--python", python]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", *_TESTS], check=True)
    mypy = [sys.executable, "-m", "mypy", "--python-version", version]
    checks = {
        "types": [*mypy, "--cache-dir", WORK / f"mypy-{version}"],
        "unit tests": [python, "-m", "pytest", "-q", "-n", "2", "tests/unit"],
    }
    told = ""
    for name, command in checks.items():
        ended = subprocess.run(command, cwd=ROOT, check=False)
        told += f", {name} failed" if ended.returncode else f", {name} passed"
    return told


def _migrated(python: Path) -> str:
    """The demo, with what a newer Python only warns of now as an error."""
    words = ["demo", "--output", "json", "--scale", "0.1"]
    ended = subprocess.run(
        [python, "-W", "error::SyntaxWarning", "-m", "planrunner", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if ended.returncode:
        return f"failed: {ended.stderr.strip()[-2000:]}"
    told = json.loads(ended.stdout)
    if not told["verified"] or told["lost_writes"]:
        return f"failed: {told}"
    full = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    return (
        f"{full}: migrated {told['rows']} rows, verified, none of {told['acknowledged_writes']} writes lost"
    )


if __name__ == "__main__":
    sys.exit(main())
