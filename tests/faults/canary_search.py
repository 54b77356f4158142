"""Where a secret may have come out, and the search of each of these places."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.faults.canaries import unescaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Any, TypeAlias

    import psycopg

    from tests.faults.canary_place import Place

    Session: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

PROGRAMS = ("psql", "pg_dump", "pg_restore")


def in_words(place: Place) -> list[str]:
    """What the commands said, on stdout and stderr."""
    return [
        hit
        for name, text in place.said.items()
        for hit in _named(name, place.canaries.met(text, laid_out=True))
    ]


def in_files(place: Place) -> list[str]:
    """State, backups, journal, reports, saved previews, and whatever else was written anywhere in the folder."""
    return [
        hit
        for path in written(place)
        for hit in _named(str(path), place.canaries.met(path.read_text("utf-8", "replace"), laid_out=True))
    ]


def in_notifications(place: Place) -> list[str]:
    """What a webhook was told; its own address and header were no part of it."""
    return place.canaries.met("\n".join(place.notified), laid_out=True)


def in_arguments(place: Place) -> list[str]:
    """The arguments of every program, which every process can read."""
    return [hit for line in _calls(place) for hit in _of_call(place, _arguments(line))]


def in_programs_of_postgresql(place: Place) -> list[str]:
    """All that psql, pg_dump and pg_restore were given."""
    return [hit for program in PROGRAMS for line in calls(place, program) for hit in _of_call(place, line)]


def in_environments(place: Place) -> list[str]:
    """What was looked up elsewhere, in any child's environment; a hook has its own secrets there, as it was told."""
    ours = "\n".join(place.environ.values())
    handed = ("variable", "hook's secret")
    others = {
        name
        for name, value in place.canaries.known.items()
        if value not in ours and not name.startswith(handed)
    }
    return [hit for line in _calls(place) for hit in _of_call(place, line, others)]


def in_logs(place: Place) -> list[str]:
    """Passwords in what servers and pooler have logged; of other secrets a statement may be made, which is logged."""
    logs = (place.source.log, place.target.log, place.bouncer.folder / "output")
    return [hit for log in logs for hit in _passwords(place, str(log), log.read_text("utf-8", "replace"))]


def in_statements(place: Place) -> list[str]:
    """Passwords in what pg_stat_statements keeps, as a superuser sees it."""
    return _kept_by_servers(place, lambda session: _column(session, "SELECT query FROM pg_stat_statements"))


def in_ledgers(place: Place) -> list[str]:
    """Any secret in what planrunner kept on the servers, its state among it."""
    return place.canaries.met("\n".join(place.ledgers))


def in_sight_of_others(place: Place) -> list[str]:
    """What any other login saw meanwhile."""
    return place.canaries.met("\n".join(place.seen))


SEARCHES: dict[str, Callable[[Place], list[str]]] = {
    "stdout and stderr": in_words,
    "state, journal, reports and other files": in_files,
    "notifications": in_notifications,
    "arguments of children": in_arguments,
    "environment and arguments of PostgreSQL's programs": in_programs_of_postgresql,
    "environment of children": in_environments,
    "logs of servers and pooler": in_logs,
    "pg_stat_statements": in_statements,
    "ledgers": in_ledgers,
    "what other logins see": in_sight_of_others,
}


def written(place: Place) -> list[Path]:
    """Every file that planrunner or a child of its has written and left."""
    own = {*place.placed, place.folder / "started.txt"}
    return sorted(path for path in place.folder.rglob("*") if path.is_file() and path not in own)


def calls(place: Place, program: str) -> list[str]:
    """How that program was started."""
    return [line for line in _calls(place) if re.search(rf'execve\("[^"]*/{program}"', line)]


def _calls(place: Place) -> list[str]:
    return [line for line in place.started.splitlines() if "execve(" in line]


def _arguments(line: str) -> str:
    return line.partition('", [')[2].partition("], [")[0]


def _of_call(place: Place, line: str, places: Iterable[str] | None = None) -> list[str]:
    return place.canaries.met(line, places) + place.canaries.met(unescaped(line), places)


def _passwords(place: Place, where: str, text: str) -> list[str]:
    return _named(where, place.canaries.met(text, sorted(place.passwords)))


def _kept_by_servers(place: Place, ask: Callable[[Session], list[str]]) -> list[str]:
    found = []
    for server in (place.source, place.target):
        with place.session(server) as session:
            found += _passwords(place, str(server.port), "\n".join(ask(session)))
    return found


def _column(session: Session, query: str) -> list[str]:
    return [str(row[0]) for row in session.execute(query.encode()).fetchall()]


def _named(where: str, hits: list[str]) -> list[str]:
    return [f"{where}: {hit}" for hit in hits]
