"""The preflight: every check of both servers, in the sections of the report; reads only.

Each section is a module of its own: ``preflight_local``, ``_log``, ``_network``, ``_line``, ``_source``, ``_target``,
``_capacity``, ``_schema``. A check is a generator of findings; add one to the section it belongs to.
The number of queries does not grow with the number of tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError
from planrunner.model import Mark
from planrunner.postgres import (
    preflight_capacity,
    preflight_line,
    preflight_local,
    preflight_log,
    preflight_network,
    preflight_schema,
    preflight_source,
    preflight_target,
)
from planrunner.postgres.preflight_section import (
    CAPACITY,
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
    from collections.abc import Iterable, Iterator

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
    checks = (
        (NETWORK, there, preflight_network.session_quality(source)),
        (NETWORK, here, preflight_network.session_quality(target)),
        (NETWORK, there and here, preflight_network.apart(source, target)),
        (SOURCE, there, preflight_source.permissions(source, needs)),
        (TARGET, here, preflight_target.permissions(target, source.endpoint, needs)),
        (TARGET, here, preflight_log.recorded_password(target, source.endpoint)),
        (TARGET, there and here, preflight_target.reception(source, target, needs)),
        (CAPACITY, there, preflight_capacity.source(source, needs)),
        (CAPACITY, here, preflight_capacity.target(target, needs)),
        (SCHEMA, there, preflight_schema.contents(source, needs)),
        (SCHEMA, there and here, preflight_schema.fit(source, target)),
        (FROM_TARGET, there and here, preflight_line.from_target(source, target, needs)),
    )
    files = preflight_local.secret_files(source.endpoint, target.endpoint)
    found = [*_guarded(LOCAL, local), *files, from_source.finding, from_target.finding]
    for section, reachable, check in checks:
        if reachable:
            found += _guarded(section, check)
    return tuple(found)


def _guarded(section: Section, checks: Iterable[Finding]) -> Iterator[Finding]:
    # A check that could not be made is a failure of its own, and no reason to lose the others.
    try:
        yield from checks
    except PlanrunnerError as error:
        check = replace(UNCHECKED, section=section)
        yield check.failed(f"not all could be checked: {error.message}", error.remedy)
