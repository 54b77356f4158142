"""Where a plan's state is kept, by what ``--state`` says: a file, an S3 object, or a table of a database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from planrunner.model import Endpoint, Plan
    from planrunner.ports import StateHome

TARGET = "target"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|[?&\s]password\s*=")


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """What looks secrets up, and what closes the sessions in the end."""

    environ: Mapping[str, str]
    stack: ExitStack


def is_remote(state: str | None) -> bool:
    """True when the state lies in a bucket or a database."""
    return state is not None and (state == TARGET or _SCHEME.match(state) is not None)


def home_of(
    plan: Plan, state: str | None, file: Path, *, take_over: bool = False, sessions: Sessions | None = None
) -> StateHome:
    """The home that ``state`` names, ``file`` when it names none; nothing is connected to yet.

    ``take_over``: who locks it does not wait for its holder, which is frozen or out of reach; a file's lock is freed
    with its process. ``sessions`` says how a database is reached, and when it is left. UsageError for a scheme that is
    none of ours, or a URL with a password in it.
    """
    if state is None or not is_remote(state):
        from planrunner.state.file import FileStore

        return FileStore(file)
    if state == TARGET:
        return _in_database(plan, plan.target, "target", sessions, take_over=take_over)
    scheme = state.partition("://")[0].lower()
    if scheme == "s3":
        return _in_bucket(plan, state, take_over=take_over)
    if scheme in {"postgresql", "postgres"}:
        return _in_database(plan, _endpoint(state), state, sessions, take_over=take_over)
    raise UsageError(
        f"--state {state}: there is no way to keep a state in {scheme}://",
        remedy="Name a file, s3://BUCKET/KEY, postgresql://HOST/DATABASE, or target.",
    )


def _in_bucket(plan: Plan, url: str, *, take_over: bool) -> StateHome:
    from planrunner.aws.bucket import Bucket
    from planrunner.state.lease import Lease
    from planrunner.state.remote import RemoteHome

    bucket, _, key = url.split("://", 1)[1].partition("/")
    if not bucket:
        raise UsageError(f"--state {url}: it names no bucket", remedy="Write s3://BUCKET/KEY.")
    if not key or key.endswith("/"):
        key = f"{key}{plan.path.name}.state.json"
    cabinet = Bucket(bucket)
    lease = Lease(cabinet, f"{key}.lock", take_over=take_over)
    return RemoteHome(cabinet, key, lease, place=f"s3://{bucket}/{key}")


def _endpoint(url: str) -> Endpoint:
    from planrunner.model import Endpoint, Side

    if _PASSWORD.search(url):
        raise UsageError(
            "--state holds a password, which would be seen in the list of processes and in messages",
            remedy="Leave it out; it is taken from PGPASSWORD, PGPASSFILE or ~/.pgpass, as psql does.",
        )
    return Endpoint(side=Side.LOCAL, dsn=url)


def _in_database(
    plan: Plan, endpoint: Endpoint, place: str, sessions: Sessions | None, *, take_over: bool
) -> StateHome:
    import os

    from planrunner.clock import SystemClock
    from planrunner.postgres.cabinet import AdvisoryLock, Table
    from planrunner.postgres.connection import Server
    from planrunner.secrets import SecretResolver
    from planrunner.state.remote import RemoteHome

    # Not the label of a run: the next one ends the sessions that a former one left under it.
    label = f"planrunner-state/{plan.name}"
    resolve = SecretResolver(os.environ if sessions is None else sessions.environ).resolve
    server = Server(endpoint, clock=SystemClock(), resolve=resolve, label=label)
    if sessions is not None:
        sessions.stack.callback(server.close)
    table = Table(server)
    lock = AdvisoryLock(server, table, f"{plan.name}.lock", take_over=take_over)
    return RemoteHome(table, plan.name, lock, place=f"{place} (table planrunner.state, {plan.name})")
