"""Values that are equal to each other and not the same never digest alike; the same ones do, on every major."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import checksum
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.conftest import connected
from tests.integration.replication.pairs import PAIRS, TYPES
from tests.servers import contrib_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server


SHAPES = ("plain", "array", "composite")
_NEEDS_LIBXML = "xml"


def _script(version: int, *, libxml: bool) -> list[sql.Composed]:
    """Tables ``one_N_shape`` with the first value, ``other_N_shape`` with the second, on every server."""
    made: list[sql.Composed] = []
    for number, pair in enumerate(PAIRS):
        if pair.since > version or (pair.type == _NEEDS_LIBXML and not libxml):
            continue
        base, part = sql.SQL(pair.type), sql.Identifier(f"part_{number}")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        array = pair.type if pair.type.endswith("[]") else f"{pair.type}[]"
        made.append(sql.SQL("CREATE TYPE {} AS (v {}, n int)").format(part, base))
        types = {"plain": base, "array": sql.SQL(array), "composite": part}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        for which, value in (("one", pair.one), ("other", pair.other)):
            literal = sql.SQL("NULL") if value == "NULL" else sql.Literal(value)
            plain = sql.SQL("{}::{}").format(literal, base)
            values = {
                "plain": plain,
                "array": sql.SQL("ARRAY[{}]").format(plain),
                "composite": sql.SQL("ROW({}, 1)::{}").format(plain, part),
            }
            for shape in SHAPES:
                name = sql.Identifier(f"{which}_{number}_{shape}")
                made.append(sql.SQL("CREATE TABLE {} (v {})").format(name, types[shape]))
                made.append(sql.SQL("INSERT INTO {} VALUES ({})").format(name, values[shape]))
    return made


@dataclass(frozen=True, kw_only=True)
class Digests:
    """The digest of every table on one server."""

    version: int
    found: dict[str, checksum.Digest]


def _digests(server: Server, dsn: str, *, major: int) -> Digests:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(TYPES.encode())
        libxml = bool(session.execute("SELECT 1 FROM pg_settings WHERE name = 'xmloption'").fetchone())
        try:
            session.execute("SELECT xml '<a/>'")
        except psycopg.errors.FeatureNotSupported:
            libxml = False
        for statement in _script(major, libxml=libxml):
            session.execute(statement)
    tables = [t for t in catalog.tables(server) if t.name.startswith(("one_", "other_"))]
    found = checksum.digests(server, tables, counts_only=False, jobs=1, timeout=60)
    return Digests(version=major, found=found)


@pytest.fixture(scope="module", params=[13, 15, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Digests]:
    major: int = request.param
    with PostgresServer(contrib_bin(major), max_life=600) as running:
        opened = connected(running, "postgres", Side.SOURCE)
        yield _digests(opened, running.superuser_dsn, major=major)
        opened.close()


_known: dict[str, tuple[int, checksum.Digest]] = {}


def test_values_that_are_only_equal_never_digest_alike(server: Digests) -> None:
    alike = [
        (pair, shape)
        for number, pair in enumerate(PAIRS)
        for shape in SHAPES
        if f"public.one_{number}_{shape}" in server.found
        and server.found[f"public.one_{number}_{shape}"] == server.found[f"public.other_{number}_{shape}"]
    ]
    assert alike == []
    assert len(server.found) > 4 * len(PAIRS)


def test_the_same_values_digest_the_same_on_every_major(server: Digests) -> None:
    differing = []
    for name, digest in server.found.items():
        major, known = _known.setdefault(name, (server.version, digest))
        if known != digest:
            differing.append((name, PAIRS[int(name.split("_")[1])], major, server.version))
    assert differing == []
