"""The schema as pg_dump gives it, in the sections pg_restore cuts: before and after the data.

The dump is taken under the held snapshot, so it is the schema of exactly the rows that are copied. The client
is chosen by trial: one whose dump holds something no server takes is passed over.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.errors import ToolFailed
from planrunner.postgres import tools
from planrunner.postgres.passwords import with_password
from planrunner.postgres.tls import encrypted, for_another_libpq
from planrunner.replication.names import SCHEMA
from planrunner.replication.providers import Provider, provider
from planrunner.replication.relations import Omitted
from planrunner.replication.restorable import Restorable, assumable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Secret
    from planrunner.postgres.connection import Server

_HEADER = re.compile(r"^--\n-- Name: (?P<told>[^\n]*)\n--\n", re.MULTILINE)
_KIND = re.compile(r"; Type: (?P<type>[A-Z ]+); Schema: ")
_OWNER = re.compile(r"; Owner: ")
_RESTRICT = re.compile(r"^\\restrict (\S+)$", re.MULTILINE)
_SETTING = re.compile(r"^SET (\w+) = [^\n]*;\n", re.MULTILINE)
# CLUSTER leaves this mark with an index that is otherwise the same.
_CLUSTERED = re.compile(r"^ALTER TABLE [^\n]* CLUSTER ON [^\n]*;$", re.MULTILINE)
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One statement group of a section: pg_dump's name and type for it, and its SQL."""

    name: str
    type: str
    schema: str
    sql: str

    @property
    def key(self) -> str:
        """A name that is the same in every dump of the same thing."""
        same = _CLUSTERED.sub("", self.sql).rstrip() + "\n\n\n" if _CLUSTERED.search(self.sql) else self.sql
        return f"{self.type} {self.schema}.{self.name} {hashlib.sha256(same.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A section as SQL: session settings first, then its entries in order."""

    preamble: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A dump's two sections: what data needs, and what is built on it."""

    pre_data: Script
    post_data: Script


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Whether owners and grants are carried, and what is left out altogether."""

    owners: bool = True
    grants: bool = True
    omitted: Omitted = field(default_factory=Omitted)


def dumped(source: Server, target: Server, wishes: Wishes, *, snapshot: str | None = None) -> Schema:
    """Dump the source's schema once and cut it into the sections, ready for the target.

    ToolFailed when no client of this machine makes a dump that the target can take.
    """
    refused: list[str] = []
    version = source.identity().version
    known = frozenset(str(row[0]) for row in target.rows("SELECT name FROM pg_settings"))
    tls = encrypted(source.parameters())
    for client in tools.candidates(version, tls=tls):
        with tempfile.TemporaryDirectory(prefix="planrunner-") as folder:
            archive = Path(folder) / "schema.dump"
            _dump(client, source, archive, wishes, snapshot)
            wanted = Restorable(source, target, wishes.omitted)
            sections = [_section(client, archive, name, wanted) for name in ("pre-data", "post-data")]
        if not any("pg_attver" in text for text, _ in sections):
            theirs = provider(target, assumable(target))
            pre, post = (_parse(text, known, lines, theirs) for text, lines in sections)
            return Schema(pre_data=pre, post_data=post)
        refused.append(client.version)
    if not refused:
        raise tools.missing_tools(version, tls=tls)
    raise ToolFailed(
        f"pg_dump {', '.join(refused)} writes the option pg_attver, which no server takes",
        remedy="Install the newest client of the source's major version, e.g. apt-get install postgresql-client.",
    )


def _section(
    client: tools.ClientTools, archive: Path, name: str, wanted: Restorable
) -> tuple[str, list[str]]:
    """The section's script, and the lines of the list that it was made by."""
    kept = _listed(client, archive, name, wanted)
    listing = archive.with_name(f"{name}.list")
    listing.write_bytes("".join(f"{line}\n" for line in kept).encode())
    return _script(client, archive, listing), kept


def _dump(
    client: tools.ClientTools, source: Server, archive: Path, wishes: Wishes, snapshot: str | None
) -> None:
    arguments = ["--format=custom", "--schema-only", "--no-publications", "--no-subscriptions"]
    # A label can't be restored without its provider: it is told as a decision.
    arguments += ["--no-security-labels", "--no-tablespaces"]
    arguments += [f"--exclude-schema={SCHEMA}", "--lock-wait-timeout=60000"]
    arguments += [] if wishes.owners else ["--no-owner"]
    arguments += [] if wishes.grants else ["--no-privileges"]
    arguments += [f"--snapshot={snapshot}"] if snapshot else []
    arguments += [f"--exclude-table={_exactly(r.schema, r.name)}" for r in wishes.omitted.relations]

    def dump(secret: Secret | None) -> None:
        with tools.dialling(for_another_libpq(source.parameters()), secret) as handed:
            tools.run_tool(
                [str(client.pg_dump), *arguments, f"--file={archive}", f"--dbname={handed.dial}"],
                handed=handed,
                what="dump the source's schema",
                timeout=TIMEOUT_SECONDS,
                line=source.line,
            )

    with_password(source, dump)


def _exactly(schema: str, name: str) -> str:
    """pg_dump's pattern of one relation: between double quotes nothing is a wildcard or folded."""
    return ".".join(f'"{part}"' for part in (schema.replace('"', '""'), name.replace('"', '""')))


def _listed(client: tools.ClientTools, archive: Path, section_name: str, wanted: Restorable) -> list[str]:
    listed = tools.run_tool(
        [str(client.pg_restore), "--list", f"--section={section_name}", str(archive)],
        what="list the schema dump",
        timeout=TIMEOUT_SECONDS,
    )
    # pg_restore takes newlines out of names, and nothing else at which splitlines() would cut.
    return [
        line for line in listed.decode().split("\n") if line and not line.startswith(";") and wanted(line)
    ]


def _script(client: tools.ClientTools, archive: Path, listing: Path) -> str:
    made = tools.run_tool(
        [str(client.pg_restore), f"--use-list={listing}", "--file=-", str(archive)],
        what="read the schema dump",
        timeout=TIMEOUT_SECONDS,
    )
    return made.decode()


def _parse(text: str, known: frozenset[str], lines: Sequence[str], theirs: Provider) -> Script:
    guard = _RESTRICT.search(text)
    if guard is not None:
        # psql's own guard against commands hidden in a dump; we send SQL, and the server knows neither line.
        text = text.replace(f"\\restrict {guard[1]}\n", "", 1).replace(f"\\unrestrict {guard[1]}\n", "", 1)
    found = list(_HEADER.finditer(text))
    heads = _heads(found, lines)
    first = found[0].start() if found else len(text)
    preamble = _SETTING.sub(lambda m: m[0] if m[1] in known else "", text[:first])
    if len(heads) != len(lines):
        whole = Entry(name="section", type="SECTION", schema="-", sql=text[first:])
        return Script(preamble=preamble, entries=(whole,) if found else ())
    ends = [*(head.start for head in heads[1:]), len(text)][: len(heads)]
    entries: Sequence[Entry] = [
        Entry(
            name=h.name, type=h.type, schema=h.schema, sql=theirs.cleaned(h.type, h.owner, text[h.end : end])
        )
        for h, end in zip(heads, ends, strict=True)
    ]
    return Script(preamble=preamble, entries=tuple(entries))


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What pg_restore writes above an entry, and where it stands in the script."""

    name: str
    type: str
    schema: str
    owner: str
    start: int
    end: int


def _heads(found: Sequence[re.Match[str]], lines: Sequence[str]) -> list[_Head]:
    """The heads that belong to ``lines``; what only looks like one stands in a name or a text."""
    heads: list[_Head] = []
    expected = sorted((line.split(";", 1)[1].split(None, 2)[2] for line in lines), key=_turn)
    for match in found:
        if len(heads) < len(expected):
            heads += [head for head in _readings(match) if _fits(head, expected[len(heads)])][:1]
    return heads


def _turn(described: str) -> int:
    """In which of pg_restore's three passes over the list an entry is written: grants come behind all else."""
    if described.startswith(("ACL ", "DEFAULT ACL ")):
        return 1
    late = ("EVENT TRIGGER ", "COMMENT - EVENT TRIGGER ", "MATERIALIZED VIEW DATA ", "STATISTICS DATA ")
    return 2 if described.startswith(late) else 0


def _readings(match: re.Match[str]) -> Iterator[_Head]:
    """Every way to read a head's line: a name may hold what stands between two of its parts."""
    told = match["told"]
    for kind in _KIND.finditer(told):
        for owner in _OWNER.finditer(told, kind.end() - 1):
            yield _Head(
                name=told[: kind.start()],
                type=kind["type"],
                schema=told[kind.end() : owner.start()],
                owner=told[owner.end() :],
                start=match.start(),
                end=match.end(),
            )


def _fits(head: _Head, described: str) -> bool:
    listed = f"{head.type} {head.schema} {head.name} "
    return described.startswith(listed) and head.owner in {"-", "", described[len(listed) :]}
