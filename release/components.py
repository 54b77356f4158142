"""What planrunner is shipped with: the packages of a lock, their hashes, and the licence of each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "locks/runtime.txt"
SANDBOX = ROOT / "locks/sandbox.txt"
# What may be shipped, as packages write it, and what SPDX calls it. Another licence is looked at by a person first.
ALLOWED = {
    **{
        name: name
        for name in (
            "0BSD",
            "Apache-2.0",
            "Apache-2.0 AND CNRI-Python",
            "Apache-2.0 OR BSD-3-Clause",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "ISC",
            "LGPL-3.0-only",
            "MIT",
            "MIT-0",
            "MPL-2.0",
            "PSF-2.0",
        )
    },
    "Apache Software License": "Apache-2.0",
    "Apache Software License; BSD License": "Apache-2.0 OR BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
# What only other systems install, so that nothing here can tell.
ELSEWHERE = {"colorama": "BSD-3-Clause", "pywin32": "PSF-2.0", "tzdata": "Apache-2.0"}


@dataclass(frozen=True, kw_only=True)
class Locked:
    """One package of a lock; ``marker`` says on which machines it is installed, empty on all."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def locked(lock: Path) -> tuple[Locked, ...]:
    """The packages of a lock, in its order."""
    text = lock.read_text("utf-8").replace("\\\n", " ")
    return tuple(_entry(line) for line in text.splitlines() if line and not line.startswith("#"))


def _entry(line: str) -> Locked:
    found = re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)\s*(?:;\s*(?P<marker>.*?))?\s*--hash", line)
    if found is None:
        raise SystemExit(f"not a line of a lock: {line[:80]}")
    return Locked(
        name=canonicalize_name(found["name"]),
        version=found["version"],
        marker=found["marker"] or "",
        hashes=tuple(re.findall(r"--hash=sha256:(\w+)", line)),
    )


@cache
def licences() -> dict[str, str]:
    """What each package that is installed here says of its licence, by its name; pip-licenses reads it."""
    told = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--format=json"], check=True, capture_output=True, text=True
    )
    return {canonicalize_name(entry["Name"]): entry["License"] for entry in json.loads(told.stdout)}


def licence(package: Locked) -> str:
    """The SPDX expression of its licence; ends the program for one that is not among the allowed."""
    told = licences().get(package.name) or ELSEWHERE.get(package.name, "unknown: it is not installed here")
    if told not in ALLOWED:
        raise SystemExit(f"{package.name} {package.version}: its licence is not an allowed one: {told}")
    return ALLOWED[told]
