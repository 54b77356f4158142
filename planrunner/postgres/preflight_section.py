"""A section of the preflight report, and what the plan needs of the servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.model import Finding, Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from planrunner.model import Fix
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server

_SHOWN = 6


def _nothing(_: Server) -> Collection[tuple[str, str]]:
    return ()


def _refused(_: Table) -> str:
    return "refuse"


def _unnamed() -> None:
    return None


def _always() -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one plan asks of its servers.

    ``owned`` is the prefix of the plan's slots and subscriptions: what an earlier run left is no
    surprise. ``dial`` holds libpq parameters, without password, as the target will dial the source.
    ``memberships``: whether the grant step may join the roles that own tables. ``roles`` reads the
    names that the target needs when owners or grants are kept. ``unlogged`` and ``large_objects`` are the
    snapshot step's options of these names, ``identity`` its choice for a table without replica identity.
    ``carried`` picks those of the source's tables that the plan does not leave out, ``left_out`` names the
    relations it does, as (schema, name). ``login`` names who the target's subscription logs in as on the source, None
    for the plan's own login, and ``borrowed`` tells whether it is that. ``streams`` is how many subscriptions follow
    the source, ``failover`` whether their slots are to outlive the source's failover, ``folder`` where this machine
    keeps the plan's state, ``polled`` that the source is asked for changed rows and nothing is replicated.
    """

    plan_id: str
    owned: str
    dial: Mapping[str, str] = field(default_factory=dict)
    jobs: int = 4
    memberships: bool = True
    keep_owners: bool = True
    roles: Callable[[Server], Sequence[str]] | None = None
    identity: Callable[[Table], str] = _refused
    unlogged: str = "refuse"
    large_objects: str = "refuse"
    carried: Callable[[Sequence[Table]], Sequence[Table]] = tuple
    left_out: Callable[[Server], Collection[tuple[str, str]]] = _nothing
    login: Callable[[], str | None] = _unnamed
    borrowed: Callable[[], bool] = _always
    streams: int = 1
    failover: bool = False
    folder: Path | None = None
    polled: bool = False


@dataclass(frozen=True)
class Section:
    """Makes the findings of one section."""

    title: str

    def passed(self, text: str) -> Finding:
        """All is well."""
        return Finding(section=self.title, mark=Mark.PASS, text=text)

    def warned(self, text: str, remedy: str | None = None) -> Finding:
        """Works, but someone should know."""
        return Finding(section=self.title, mark=Mark.WARN, text=text, remedy=remedy)

    def failed(self, text: str, remedy: str | None = None, *, mended_by: str | None = None) -> Finding:
        """The migration would not work."""
        return Finding(section=self.title, mark=Mark.FAIL, text=text, remedy=remedy, mended_by=mended_by)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: its code, the section it reports in, and why it matters; makes its findings.

    Codes never change their meaning and are never used again: PR00xx the preflight itself, PR01xx local, PR02xx
    network, PR03xx the source's permissions, PR04xx the target's, PR05xx capacity, PR06xx schema, PR07xx data, PR08xx
    the network from the target, PR09xx the way back, PR10xx AWS, PR11xx filters, PR12xx following, PR13xx traffic, PR14xx
    SerenAI, PR15xx polling, PR16xx the replica. Each is a constant of the module that makes the check. ``mend`` tells in
    general what mends it, for its page.
    ``never_ignored`` says why a plan may not ignore it; empty: it may. ``can`` are the marks that its findings may
    have beside passed, where the code does not show them (``planrunner.catalogue``).
    """

    code: str
    section: Section
    title: str
    why: str
    mend: str = ""
    never_ignored: str = ""
    can: tuple[Mark, ...] = ()

    def passed(self, text: str) -> Finding:
        """All is well."""
        return self._finding(Mark.PASS, text)

    def warned(self, text: str, remedy: str | None = None, *, fix: Fix | None = None) -> Finding:
        """Works, but someone should know."""
        return self._finding(Mark.WARN, text, remedy, fix=fix)

    def failed(
        self, text: str, remedy: str | None = None, *, mended_by: str | None = None, fix: Fix | None = None
    ) -> Finding:
        """The migration would not work, or would lose something."""
        return self._finding(Mark.FAIL, text, remedy, mended_by=mended_by, fix=fix)

    def _finding(
        self,
        mark: Mark,
        text: str,
        remedy: str | None = None,
        *,
        mended_by: str | None = None,
        fix: Fix | None = None,
    ) -> Finding:
        return Finding(
            section=self.section.title,
            mark=mark,
            text=text,
            remedy=remedy,
            mended_by=mended_by,
            code=self.code,
            why=self.why,
            fix=fix,
        )


ITSELF = Section("Preflight")
LOCAL = Section("Local Environment")
NETWORK = Section("Network Connectivity")
SOURCE = Section("Source Permissions")
TARGET = Section("Target Permissions")
CAPACITY = Section("Capacity")
SCHEMA = Section("Schema")
DATA = Section("Data")
FROM_TARGET = Section("Network from the Target")
WAY_BACK = Section("Way Back")
AWS = Section("AWS")
FILTERS = Section("Filters")
FOLLOWING = Section("Following")
TRAFFIC = Section("Traffic")
SEREN = Section("SerenAI")
REPLICA = Section("Replica")
# In the order of the report.
SECTIONS = tuple(
    section.title
    for section in (
        *(ITSELF, LOCAL, NETWORK, SOURCE, TARGET, CAPACITY, SCHEMA, DATA, FROM_TARGET, WAY_BACK, AWS),
        *(FILTERS, FOLLOWING, TRAFFIC, SEREN, REPLICA),
    )
)


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def counted(count: int, noun: str) -> str:
    """``1 table``, ``42 tables``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
