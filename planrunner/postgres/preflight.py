"""The preflight: every check of both servers, in the sections of the report; reads only.

Each section is a module of its own or several: ``preflight_local``, ``_log``, ``_network``, ``_line``, ``_source``,
``_target``, ``_login``, ``_versions``, ``_capacity``, ``_settings``, ``_disk``, ``_clock``, ``_neighbours``,
``_activity``, ``_schema`` and its siblings, ``_data``. A check is a generator of findings; add one to the section it
belongs to.
The number of queries does not grow with the number of tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError
from planrunner.model import Mark
from planrunner.postgres import (
    preflight_activity,
    preflight_capacity,
    preflight_clock,
    preflight_collisions,
    preflight_data,
    preflight_definitions,
    preflight_disk,
    preflight_extensions,
    preflight_line,
    preflight_local,
    preflight_locale,
    preflight_log,
    preflight_login,
    preflight_neighbours,
    preflight_network,
    preflight_schema,
    preflight_settings,
    preflight_source,
    preflight_streams,
    preflight_target,
    preflight_versions,
)
from planrunner.postgres.preflight_section import (
    CAPACITY,
    DATA,
    FROM_TARGET,
    ITSELF,
    LOCAL,
    NETWORK,
    SCHEMA,
    SOURCE,
    TARGET,
    Check,
)
from planrunner.postgres.tls import encrypted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs, Section


UNCHECKED = Check(
    code="PR0001",
    section=ITSELF,
    title="Everything can be checked",
    why="What could not be looked at may be as wrong as anything; a question that failed is not a check that passed.",
    mend="The finding tells what the server, or the machine, said. Mend that and check again.",
    never_ignored="nobody knows what it would have found",
    can=(Mark.FAIL,),
)


def preflight(source: Server, target: Server, needs: Needs) -> tuple[Finding, ...]:
    """Every finding, passed ones too; what depends on a server that can't be reached is left out."""
    from_source, from_target = preflight_network.reach(source), preflight_network.reach(target)
    there, here = from_source.identity is not None, from_target.identity is not None
    local = preflight_local.tools(
        from_source.identity, from_target.identity, tls=there and encrypted(source.parameters())
    )
    # Generators: one that is not asked for has not spoken to its server.
    needs = replace(needs, left_out=_once(needs.left_out))
    checks = (
        (NETWORK, there, preflight_network.session_quality(source)),
        (NETWORK, here, preflight_network.session_quality(target)),
        (NETWORK, there and here, preflight_network.apart(source, target)),
        (SOURCE, there, preflight_source.permissions(source, needs)),
        (SOURCE, there, preflight_login.login(source)),
        (TARGET, here, preflight_target.permissions(target, source.endpoint, needs)),
        (TARGET, here, preflight_login.login(target)),
        (TARGET, here, preflight_log.recorded_password(target, source.endpoint)),
        (TARGET, there and here, preflight_target.reception(source, target, needs)),
        (CAPACITY, there, preflight_versions.versions(source)),
        (CAPACITY, here, preflight_versions.versions(target)),
        (CAPACITY, there, preflight_capacity.source(source, needs)),
        (CAPACITY, here, preflight_capacity.target(target, needs)),
        (CAPACITY, there, preflight_settings.source(source)),
        (CAPACITY, there and here, _arrival(source, target, needs)),
        (CAPACITY, there and not needs.polled, preflight_disk.wal(source)),
        (CAPACITY, there, preflight_neighbours.neighbours(source, needs)),
        (CAPACITY, there, preflight_activity.activity(source)),
        (SCHEMA, there, preflight_schema.contents(source, needs)),
        (SCHEMA, there, preflight_definitions.definitions(source, needs)),
        (SCHEMA, there, preflight_streams.of_source(source, needs)),
        (SCHEMA, here, preflight_streams.of_target(target, needs)),
        (SCHEMA, here, preflight_schema.target_event_triggers(target)),
        (SCHEMA, there and here, preflight_extensions.extensions(source, target)),
        (SCHEMA, there and here, preflight_locale.locales(source, target)),
        (SCHEMA, there and here, preflight_collisions.collisions(source, target, needs)),
        (DATA, there, preflight_data.contents(source, needs)),
        (FROM_TARGET, there and here and not needs.polled, preflight_line.from_target(source, target, needs)),
    )
    files = [
        *preflight_local.secret_files(source.endpoint, target.endpoint),
        *preflight_disk.own_files(needs),
    ]
    found = [*_guarded(LOCAL, local), *files, from_source.finding, from_target.finding]
    for section, reachable, check in checks:
        if reachable:
            found += _guarded(section, check)
    return tuple(found)


def _arrival(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """What the target must be fit for, by the size and number of what the source holds."""
    size = preflight_disk.arriving(source, needs)
    yield from preflight_capacity.locks(source, target)
    yield from preflight_settings.target(target, size)
    yield from preflight_settings.temp_files(source, target)
    yield preflight_disk.target(target, size)
    yield from (preflight_clock.clock(server) for server in (source, target))


def _once(
    left_out: Callable[[Server], Collection[tuple[str, str]]],
) -> Callable[[Server], Collection[tuple[str, str]]]:
    """The same, asked of a server once: it reads every relation, and half the sections want it."""
    known: dict[Server, Collection[tuple[str, str]]] = {}

    def remembered(server: Server) -> Collection[tuple[str, str]]:
        if server not in known:
            known[server] = left_out(server)
        return known[server]

    return remembered


def _guarded(section: Section, checks: Iterable[Finding]) -> Iterator[Finding]:
    # A check that could not be made is a failure of its own, and no reason to lose the others.
    try:
        yield from checks
    except PlanrunnerError as error:
        check = replace(UNCHECKED, section=section)
        yield check.failed(f"not all could be checked: {error.message}", error.remedy)
