"""What a look at two servers finds before there is a plan: values, which a first plan is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A table with its size in bytes, indexes included, and the planner's estimate of its rows."""

    name: str
    bytes: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A table whose replica identity can't tell a row.

    ``pattern`` names it in a plan. ``indexes`` are those that could be its identity, ``changes`` its updates and
    deletes as the server counted them; None where it does not tell.
    """

    name: str
    pattern: str
    bytes: int
    rows: int
    indexes: tuple[str, ...]
    changes: int | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One server as it is now.

    ``publishes``: the login may replicate from it; ``subscribes``: the login may subscribe on it. ``rds`` and
    ``aurora`` are told by what the server itself has, not by its name.
    """

    major: int
    version: str
    database: str
    user: str
    superuser: bool
    standby: bool
    wal_level: str
    pooled: bool
    rds: bool
    aurora: bool
    publishes: bool
    subscribes: bool


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Both servers and what the source holds; ``target`` is None when it was not looked at.

    ``jobs`` is what both servers have room for; ``split_bytes`` the size of the biggest table that can be copied
    in ranges of its key. ``keep_roles``: the target has, or its login may make, the roles that owners and grants
    name; None where the target was not looked at.
    """

    source: Standing
    target: Standing | None
    bytes: int
    tables: int
    biggest: tuple[Sized, ...]
    split_bytes: int
    sequences: int
    large_objects: int
    unlogged: tuple[Sized, ...]
    materialized_views: tuple[str, ...]
    foreign_tables: tuple[str, ...]
    extensions: tuple[str, ...]
    missing_extensions: tuple[str, ...]
    bare: tuple[Bare, ...]
    occupied: tuple[str, ...]
    keep_roles: bool | None
    jobs: int
