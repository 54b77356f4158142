"""What the plan chooses for tables that replication can't follow as they are: no replica identity, unlogged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from planrunner.replication.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from planrunner.postgres.catalog import Table


class Way(Enum):
    """How the rows of a table without replica identity reach the target."""

    REFUSE = "refuse"
    FULL = "full"
    INDEX = "index"
    INSERT_ONLY = "insert_only"
    COPY_AT_CUTOVER = "copy_at_cutover"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice; ``index`` names the index of ``Way.INDEX``, None stands for the only one that can be it."""

    way: Way
    index: str | None = None

    @classmethod
    def of(cls, value: Any) -> Choice:
        """The choice that a plan's word or ``{index: NAME}`` means."""
        if isinstance(value, dict):
            return cls(way=Way.INDEX, index=str(value["index"]))
        return cls(way=Way(value))


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Choices by pattern, of which the first that matches a table is its own; ``late_unlogged``: see ``late``."""

    rules: tuple[tuple[Pattern, Choice], ...] = ()
    late_unlogged: bool = False

    @classmethod
    def of(cls, identity: Any, unlogged: str) -> Choices:
        """What the snapshot step's ``without_replica_identity`` (a word or a mapping) and ``unlogged`` mean."""
        by_pattern = identity if isinstance(identity, dict) else {"*.*": identity}
        return cls(
            rules=tuple((Pattern(_both(text)), Choice.of(value)) for text, value in by_pattern.items()),
            late_unlogged=unlogged == "copy_at_cutover",
        )

    def choice(self, table: Table) -> Choice:
        """What the plan chooses for a table without replica identity."""
        for pattern, choice in self.rules:
            if pattern.matches(table.schema, table.name):
                return choice
        return Choice(way=Way.REFUSE)

    def insert_only(self, table: Table) -> bool:
        """True when only inserts of the table are followed."""
        return not table.identifiable and self.choice(table).way is Way.INSERT_ONLY

    def late(self, table: Table) -> bool:
        """True when the table is copied whole inside the cutover's pause, and not before."""
        if table.unlogged:
            return self.late_unlogged
        return not table.identifiable and self.choice(table).way is Way.COPY_AT_CUTOVER

    def idle(self, tables: Iterable[Table]) -> tuple[str, ...]:
        """The patterns that match no table at all, as the plan has them; ``*`` alone is never idle."""
        known = list(tables)
        return tuple(
            pattern.text
            for pattern, _ in self.rules
            if pattern.text != "*.*" and not any(pattern.matches(t.schema, t.name) for t in known)
        )


def _both(text: str) -> str:
    return "*.*" if text == "*" else text


def of_options(options: Mapping[str, Any]) -> Choices:
    """The choices that the snapshot step's options make."""
    return Choices.of(options.get("without_replica_identity", "refuse"), options.get("unlogged", "refuse"))
