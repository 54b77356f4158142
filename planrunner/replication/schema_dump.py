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
    from collections.abc import Sequence

    from planrunner.model import Secret
    from planrunner.postgres.connection import Server

_HEADER = re.compile(
    r"^--\n-- Name: (?P<name>[^\n]*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>[^\n]*);"
    r" Owner: (?P<owner>[^\n]*)\n--\n",
    re.MULTILINE,
)
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
            wanted = Restorable(target, wishes.omitted)
            sections = [_section(client, archive, name, wanted) for name in ("pre-data", "post-data")]
        if not any("pg_attver" in text for text, _ in sections):
            theirs = provider(target, assumable(target))
            pre, post = (_parse(text, known, count, theirs) for text, count in sections)
            return Schema(pre_data=pre, post_data=post)
        refused.append(client.version)
    if not refused:
        raise tools.missing_tools(version, tls=tls)
    raise ToolFailed(
        f"pg_dump {', '.join(refused)} writes the option pg_attver, which no server takes",
        remedy="Install the newest client of the source's major version, e.g. apt-get install postgresql-client.",
    )


def _section(client: tools.ClientTools, archive: Path, name: str, wanted: Restorable) -> tuple[str, int]:
    listing = _listing(client, archive, name, wanted)
    count = sum(1 for line in listing.read_text("utf-8").splitlines() if not line.startswith(";"))
    return _script(client, archive, listing), count


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
        with tools.dialling(for_another_libpq(source.parameters())) as (dial, environment):
            tools.run_tool(
                [str(client.pg_dump), *arguments, f"--file={archive}", f"--dbname={dial}"],
                environment={**environment, **({"PGPASSWORD": secret.reveal()} if secret else {})},
                what="dump the source's schema",
                timeout=TIMEOUT_SECONDS,
            )

    with_password(source, dump)


def _exactly(schema: str, name: str) -> str:
    """pg_dump's pattern of one relation: between double quotes nothing is a wildcard or folded."""
    return ".".join(f'"{part}"' for part in (schema.replace('"', '""'), name.replace('"', '""')))


def _listing(client: tools.ClientTools, archive: Path, section_name: str, wanted: Restorable) -> Path:
    listed = tools.run_tool(
        [str(client.pg_restore), "--list", f"--section={section_name}", str(archive)],
        environment={},
        what="list the schema dump",
        timeout=TIMEOUT_SECONDS,
    )
    kept = [
        line for line in listed.decode().splitlines() if line and not line.startswith(";") and wanted(line)
    ]
    path = archive.with_name(f"{section_name}.list")
    path.write_text("\n".join(kept) + "\n", "utf-8")
    return path


def _script(client: tools.ClientTools, archive: Path, listing: Path) -> str:
    made = tools.run_tool(
        [str(client.pg_restore), f"--use-list={listing}", "--file=-", str(archive)],
        environment={},
        what="read the schema dump",
        timeout=TIMEOUT_SECONDS,
    )
    return made.decode()


def _parse(text: str, known: frozenset[str], count: int, theirs: Provider) -> Script:
    guard = _RESTRICT.search(text)
    if guard is not None:
        # psql's own guard against commands hidden in a dump; we send SQL, and the server knows neither line.
        text = text.replace(f"\\restrict {guard[1]}\n", "", 1).replace(f"\\unrestrict {guard[1]}\n", "", 1)
    heads = list(_HEADER.finditer(text))
    first = heads[0].start() if heads else len(text)
    preamble = _SETTING.sub(lambda m: m[0] if m[1] in known else "", text[:first])
    if len(heads) != count:
        whole = Entry(name="section", type="SECTION", schema="-", sql=text[first:])
        return Script(preamble=preamble, entries=(whole,) if heads else ())
    ends = [head.start() for head in heads[1:]] + [len(text)]
    entries: Sequence[Entry] = [
        Entry(
            name=h["name"],
            type=h["type"],
            schema=h["schema"],
            sql=theirs.cleaned(h["type"], h["owner"], text[h.end() : end]),
        )
        for h, end in zip(heads, ends, strict=True)
    ]
    return Script(preamble=preamble, entries=tuple(entries))
