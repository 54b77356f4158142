"""Preflight of this machine: the PostgreSQL client programs, and who may read the files of secrets."""

from __future__ import annotations

import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.model import Fix, SecretKind, Side
from planrunner.postgres.preflight_section import LOCAL, Check
from planrunner.postgres.tools import candidates, missing_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Endpoint, Finding
    from planrunner.postgres.connection import Identity

# The oldest source that is of interest when the real one can't be asked.
_ANY_VERSION = 120000
_INSTALL = "Install PostgreSQL's client programs of the source's major version: apt-get install postgresql-client-NN."
PROGRAMS = Check(
    code="PR0101",
    section=LOCAL,
    title="pg_dump and pg_restore are here and fit the source",
    why="The schema is read by pg_dump and written by pg_restore, which refuse a server that is newer than themselves.",
    mend=_INSTALL,
    never_ignored="the snapshot step can't work without them",
)
PSQL = Check(
    code="PR0102",
    section=LOCAL,
    title="psql is here",
    why="Nothing of the migration needs it, but whoever has to look around in a hurry does.",
    mend=_INSTALL,
)
NOT_TOO_NEW = Check(
    code="PR0103",
    section=LOCAL,
    title="pg_dump is not newer than both servers",
    why="A newer pg_dump may write what an older server does not know.",
    mend="Install the client programs of the source's own major version.",
)
SECRET_FILES = Check(
    code="PR0104",
    section=LOCAL,
    title="Files of secrets can be read by their owner alone",
    why="Whoever has a login on this machine could read the password, and with it every row of the database.",
    mend="chmod 600 FILE. It takes a right from other accounts of this machine and nothing else, so --fix does it;"
    " where another account reads the file on purpose, ignore the check instead.",
)


def tools(source: Identity | None, target: Identity | None, *, tls: bool = False) -> Iterator[Finding]:
    """pg_dump, pg_restore and psql, fit for the source's version; ``tls``: they must be able to encrypt."""
    version = source.version if source else _ANY_VERSION
    found = candidates(version, tls=tls)
    if not found:
        error = missing_tools(version, tls=tls)
        yield PROGRAMS.failed(error.message.removeprefix("local: "), error.remedy)
        return
    best = found[0]
    yield PROGRAMS.passed(f"pg_dump found ({best.version})")
    yield PROGRAMS.passed(f"pg_restore found ({best.version})")
    psql = next((t for t in found if t.psql is not None), None)
    if psql is None:
        yield PSQL.warned(
            "psql not found; the migration works without, looking around does not",
            f"Install it: apt-get install postgresql-client-{best.major}",
        )
    else:
        yield PSQL.passed(f"psql found ({psql.version})")
    if source is not None and target is not None and best.major > max(target.major, source.major):
        yield NOT_TOO_NEW.warned(
            f"pg_dump {best.version} is newer than both servers and may write what the target can't take",
            f"Install the source's own: apt-get install postgresql-client-{source.major}",
        )


def secret_files(*endpoints: Endpoint) -> Iterator[Finding]:
    """Files that hold a password and that others of this machine may read; nothing in them is read."""
    named = [(e, e.password) for e in endpoints] + [
        (e, e.replication.password) for e in endpoints if e.replication is not None
    ]
    for endpoint, ref in named:
        if ref is None or ref.kind is not SecretKind.FILE:
            continue
        # One that is not there is told by whoever needs the password.
        with suppress(OSError):
            mode = stat.S_IMODE(Path(ref.locator).stat().st_mode)
            if mode & (stat.S_IRGRP | stat.S_IROTH):
                mending = f"chmod 600 {shlex.quote(ref.locator)}"
                yield SECRET_FILES.warned(
                    f"The {endpoint.side.value}'s password can be read by other users: {ref.locator} has mode {mode:04o}",
                    f"Run: {mending}",
                    fix=Fix(where=Side.LOCAL, statements=(mending,)),
                )
