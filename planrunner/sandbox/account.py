"""The unprivileged account that PostgreSQL servers run as when we are root, which they refuse."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from planrunner.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# initdb looks its user up by name, so a bare number does not do; one of these is on every system.
_CANDIDATES = ("postgres", "nobody", "daemon")


class AsUser(TypedDict, total=False):
    """The arguments of subprocess.Popen that change the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who the servers run as; ``uid`` is None when that is simply us."""

    uid: int | None = None
    gid: int | None = None

    def popen(self) -> AsUser:
        """What subprocess needs to start a child as this account."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or folder of ours to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def may_read(self, *paths: Path) -> bool:
        """True when this account gets at all of these files; the folders above count too."""
        if self.uid is None:
            return True
        try:
            probe = subprocess.run(
                ["cat", *map(str, paths)],
                cwd="/",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                **self.popen(),
            )
        except OSError:
            return False
        return probe.returncode == 0


def unprivileged() -> Account:
    """The account for servers: ourselves, or one without rights when we are root.

    UsageError when we are root and the system has no such account.
    """
    if os.geteuid() != 0:
        return Account()
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        # macOS gives nobody the number -2, which getpwnam may tell as a huge unsigned one.
        if entry.pw_uid != 0:
            return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise UsageError(
        f"PostgreSQL does not run as root, and there is none of the accounts {', '.join(_CANDIDATES)}",
        remedy="Run as an ordinary user, or add an account: useradd --system postgres",
    )
