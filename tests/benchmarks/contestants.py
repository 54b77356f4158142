"""Those who copy a database: planrunner, pgcopydb, pg_dump with pg_restore, and the server's own floor."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, LiteralString

import psycopg
from psycopg import sql

import planrunner
from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.binaries import wheel_bin
from tests.benchmarks.measure import Usage, measured
from tests.benchmarks.stage import TARGET_MAJOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.stage import Stage

_SECONDS_AT_MOST = 1800.0
_PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: bench}}
connections:
  source: {{dsn: "{source}", password: {{secret: {{env: SOURCE_PASSWORD}}}}}}
  target: {{dsn: "{target}", password: {{secret: {{env: TARGET_PASSWORD}}}}}}
steps:
  - {{id: copy, uses: snapshot, with: {{{options}}}}}
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The same for all: ``jobs`` streams, ``index_jobs`` builders; with None planrunner chooses its own.

    ``pgcopydb`` is the program to measure, or None where there is none.
    """

    jobs: int
    index_jobs: int
    own_jobs: bool
    pgcopydb: Path | None


class Contestant(ABC):
    """Copies the stage's source into its fresh target."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def absent(self, stage: Stage) -> str:  # noqa: ARG002  # most can run anywhere
        """Why it can't take part, or nothing."""
        return ""

    @abstractmethod
    def version(self) -> str:
        """What it calls itself."""

    @abstractmethod
    def copy(self, stage: Stage, folder: Path) -> Usage:
        """Copy; ``folder`` is empty and takes the log ``log``. A usage with a code other than 0 has failed."""

    def tidy(self, stage: Stage, folder: Path) -> None:  # noqa: B027  # nothing to remove for most
        """Remove what it left on the source; not measured."""


class Planrunner(Contestant):
    """``planrunner run`` of a plan whose only step is the copy."""

    name = "planrunner"

    def version(self) -> str:
        """With the commit, where there is one."""
        root = Path(planrunner.__file__).parents[1]
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        return f"{planrunner.__version__} {told.stdout.strip()}".strip()

    def copy(self, stage: Stage, folder: Path) -> Usage:
        """The command line, as a user runs it."""
        chosen = self.settings
        options = "" if chosen.own_jobs else f"jobs: {chosen.jobs}, index_jobs: {chosen.index_jobs}"
        (folder / "plan.yaml").write_text(
            _PLAN.format(source=stage.source.bare_uri, target=stage.target.bare_uri, options=options)
        )
        return self._command(stage, folder, "run", "--yes", "--no-input", "--until", "copy")

    def tidy(self, stage: Stage, folder: Path) -> None:
        """Its own cleanup."""
        self._command(stage, folder, "cleanup", "--yes", "--no-input")

    def _command(self, stage: Stage, folder: Path, verb: str, *options: str) -> Usage:
        return measured(
            [sys.executable, "-m", "planrunner", verb, "plan.yaml", *options],
            environment={
                **_environment(),
                "PYTHONPATH": str(Path(planrunner.__file__).parents[1]),
                "SOURCE_PASSWORD": stage.source.password,
                "TARGET_PASSWORD": stage.target.password,
            },
            log=folder / "log",
            timeout=_SECONDS_AT_MOST,
        )


class Pgcopydb(Contestant):
    """``pgcopydb clone`` without follow; it vacuums and analyzes as it does by default."""

    name = "pgcopydb"
    options: ClassVar[Sequence[str]] = ()

    def absent(self, stage: Stage) -> str:  # noqa: ARG002
        """Not everybody has it."""
        return "" if self.settings.pgcopydb else "not installed (apt-get install pgcopydb)"

    def version(self) -> str:
        """The release number."""
        assert self.settings.pgcopydb is not None
        told = subprocess.run(
            [self.settings.pgcopydb, "--version"], capture_output=True, text=True, check=False
        )
        found = re.search(r"version (\S+)", told.stdout + told.stderr)
        return found[1] if found else "unknown"

    def copy(self, stage: Stage, folder: Path) -> Usage:
        """Its clone command with as many jobs as we have."""
        chosen = self.settings
        assert chosen.pgcopydb is not None
        jobs = ["--table-jobs", str(chosen.jobs), "--index-jobs", str(chosen.index_jobs)]
        places = ["--source", stage.source.uri, "--target", stage.target.uri, "--dir", str(folder / "work")]
        return measured(
            [chosen.pgcopydb, "clone", *places, *jobs, *self.options],
            environment=_environment(),
            log=folder / "log",
            timeout=_SECONDS_AT_MOST,
        )


class PgcopydbTuned(Pgcopydb):
    """The same with what it offers for speed: binary COPY, big tables in parts. Since release 0.17."""

    name = "pgcopydb-tuned"
    options = ("--use-copy-binary", "--split-tables-larger-than", "200MB")

    def absent(self, stage: Stage) -> str:
        """Older releases do not know these options."""
        why = super().absent(stage)
        return why or ("" if self.version() >= "0.17" else f"{self.version()} has no such options")


class Directory(Contestant):
    """``pg_dump -Fd -j`` into a folder, then ``pg_restore -j``; without compression, which only costs here."""

    name = "dump -Fd"

    def version(self) -> str:
        """That of pg_dump."""
        return _dump_version()

    def copy(self, stage: Stage, folder: Path) -> Usage:
        """One shell, so that both are one measurement."""
        jobs, dump = self.settings.jobs, folder / "dump"
        return _shell(
            f"pg_dump -Fd -Z0 -j {jobs} -f {shlex.quote(str(dump))} -d {shlex.quote(stage.source.uri)}"
            f" && pg_restore -j {jobs} -d {shlex.quote(stage.target.uri)} {shlex.quote(str(dump))}",
            folder,
        )


class Pipe(Contestant):
    """``pg_dump | pg_restore``: the custom format, uncompressed, through a pipe."""

    name = "dump | restore"

    def version(self) -> str:
        """That of pg_dump."""
        return _dump_version()

    def copy(self, stage: Stage, folder: Path) -> Usage:
        """One shell with both."""
        return _shell(
            f"pg_dump -Fc -Z0 -d {shlex.quote(stage.source.uri)} | pg_restore -d {shlex.quote(stage.target.uri)}",
            folder,
        )


class Floor(Contestant):
    """What no runner can beat: the target reads its rows from a file of its own, then builds the key."""

    name = "floor"
    _COLUMNS: ClassVar[LiteralString] = "aid int NOT NULL, bid int, abalance int, filler char(84)"

    def absent(self, stage: Stage) -> str:
        """Only a case of one table has a floor."""
        return "" if stage.case.floor else "the case has more than one table"

    def version(self) -> str:
        """No program but the server's own."""
        return f"server {TARGET_MAJOR}"

    def copy(self, stage: Stage, folder: Path) -> Usage:  # noqa: ARG002  # it has no program to log
        """COPY FROM a file, then ADD PRIMARY KEY; writing the file is not measured."""
        assert stage.case.floor is not None
        table = sql.Identifier(stage.case.floor)
        file = stage.target_server.folder / "floor.copy"
        self._write(stage, table, file)
        with psycopg.connect(stage.target_dsn) as session:
            begun = time.monotonic()
            session.execute(sql.SQL("CREATE TABLE {} (" + self._COLUMNS + ")").format(table))
            session.execute(sql.SQL("COPY {} FROM {} (FORMAT binary)").format(table, sql.Literal(str(file))))
            session.commit()
            session.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (aid)").format(table))
            session.commit()
            wall = time.monotonic() - begun
        return Usage(code=0, wall=wall, cpu=0.0, peak_bytes=0)

    @staticmethod
    def _write(stage: Stage, table: sql.Identifier, file: Path) -> None:
        if file.exists():
            return
        file.touch()
        # Both servers run as this account; ours may be another.
        unprivileged().own(file)
        with psycopg.connect(stage.source_dsn) as session:
            session.execute(sql.SQL("COPY {} TO {} (FORMAT binary)").format(table, sql.Literal(str(file))))


CONTESTANTS: tuple[type[Contestant], ...] = (Planrunner, Pgcopydb, PgcopydbTuned, Directory, Pipe, Floor)


def find_pgcopydb(named: str | None) -> Path | None:
    """The program that was named, else the one on the path."""
    found = shutil.which(named or "pgcopydb")
    return Path(found) if found else None


def _shell(line: str, folder: Path) -> Usage:
    return measured(
        ["bash", "-o", "pipefail", "-c", line],
        environment=_environment(),
        log=folder / "log",
        timeout=_SECONDS_AT_MOST,
    )


def _environment() -> dict[str, str]:
    # The newest client reads the catalogue with the fewest queries: the best that each can have.
    tools = wheel_bin(TARGET_MAJOR)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C"}


def _dump_version() -> str:
    told = subprocess.run(
        [wheel_bin(TARGET_MAJOR) / "pg_dump", "--version"], capture_output=True, text=True, check=True
    )
    return told.stdout.split()[2]
