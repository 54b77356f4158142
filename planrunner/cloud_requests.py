"""What SerenAI's cloud is asked for a plan: the addresses, the selection as its filter, and the client with the key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from planrunner.errors import StepFailed
from planrunner.postgres import catalog
from planrunner.postgres.failures import dsn_parameters
from planrunner.seren.client import Console, Jobs
from planrunner.seren.job import Command, Job, Place
from planrunner.shapes import ANYTHING
from planrunner.workspace import selected, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json, Plan, Secret, Seren
    from planrunner.postgres.connection import Server
    from planrunner.step import Run

_PUBLIC = "public"


def seren_of(plan: Plan) -> Seren:
    """The plan's cloud, which is there wherever somebody asks for it."""
    assert plan.target.seren is not None
    return plan.target.seren


def key_of(run: Run) -> Secret:
    """The API key, looked up now; SecretUnavailable."""
    ref = seren_of(run.plan).api_key
    assert ref is not None
    return run.resolve(ref)


def client(run: Run) -> Jobs:
    """The API of jobs, with the plan's passwords kept out of its words."""
    passwords = [server.password() for server in (run.source, run.target)]
    hidden = [password for password in passwords if password is not None]
    return Jobs.at(seren_of(run.plan).base, key_of(run), hidden)


def console(run: Run) -> Console:
    """The console's API of projects."""
    return Console.at(seren_of(run.plan).console, key_of(run))


def job(run: Run, command: Command) -> Job:
    """The job with its passwords, for the request's body and nothing else."""
    seren, target = seren_of(run.plan), run.target.parameters()
    place = _place(seren, target.get("dbname", ""))
    return Job(
        command=command,
        source_url=url(run.source.parameters_elsewhere(), run.source.password()),
        target=place or url(target, run.target.password()),
        filter=_filter(run),
        options=_options(command),
    )


def shown(run: Run, command: Command) -> str:
    """The request as a preview shows it: every secret as a reference."""
    seren, target = seren_of(run.plan), run.target.parameters()
    found = Job(
        command=command,
        source_url=url(run.source.parameters_elsewhere(), None),
        target=_place(seren, target.get("dbname", "")) or url(target, None),
        filter=_filter(run),
        options=_options(command),
    )
    return _line(run.plan, found)


def drafted(plan: Plan, command: Command) -> str:
    """The same from the plan alone."""
    target = dsn_parameters(plan.target)
    database = dsn_parameters(plan.source).get("dbname", ANYTHING)
    found = Job(
        command=command,
        source_url=url(dsn_parameters(plan.source), None),
        target=_place(seren_of(plan), target.get("dbname", "")) or url(target, None),
        filter={
            "include_databases": [database],
            **({} if selected(plan).everything else {"include_tables": [ANYTHING]}),
        },
        options=_options(command),
    )
    return _line(plan, found)


def url(given: Mapping[str, str], password: Secret | None) -> str:
    """A connection as the cloud dials it. Whether a certificate is looked at there its own tool decides."""
    host = given.get("host", "localhost")
    login = quote(given.get("user", ""), safe="")
    secret = "" if password is None else ":" + quote(password.reveal(), safe="")
    place = f"[{host}]" if ":" in host else host
    mode = "disable" if given.get("sslmode") == "disable" else "require"
    database = quote(given.get("dbname", ""), safe="")
    return f"postgresql://{login}{secret}@{place}:{given.get('port', '5432')}/{database}?sslmode={mode}"


def unnameable(tables: Sequence[str]) -> tuple[str, ...]:
    """Those of ``schema.table`` names that the API's dotted form can't tell apart."""
    return tuple(name for name in tables if '"' in name or name.count(".") != 1)


def _line(plan: Plan, found: Job) -> str:
    seren = seren_of(plan)
    body = dict(found.body(key=f"({seren.api_key})"))
    inside = [
        f"{end.side.value}_url with the password of {end.password}"
        for end in (plan.source, plan.target)
        if end.password is not None and f"{end.side.value}_url" in body
    ]
    remarks = "; ".join([f"x-api-key from {seren.api_key}", *inside])
    return f"POST {seren.base}/jobs {json.dumps(body, ensure_ascii=False)}  -- {remarks}"


def _place(seren: Seren, database: str) -> Place | None:
    if seren.project is None or seren.branch is None:
        return None
    return Place(project=seren.project, branch=seren.branch, database=database)


def _options(command: Command) -> Mapping[str, Json]:
    """A copy is a copy: neither may it empty the target first, nor begin to follow by itself."""
    return {"drop_existing": False, "enable_sync": False} if command is Command.INIT else {}


def _filter(run: Run) -> Mapping[str, Sequence[str]]:
    """The plan's selection, its patterns resolved to the names of the source's tables."""
    database = run.source.parameters().get("dbname", "")
    found = {"include_databases": [database]}
    selection = workspace(run).selection
    if selection.everything:
        return found
    tables = catalog.tables(run.source)
    carried = {table.oid for table in selection.carried(tables)}
    names = _named(run.source, [t for t in tables if t.oid in carried], database)
    return {**found, "include_tables": names}


def _named(source: Server, tables: Sequence[catalog.Table], database: str) -> list[str]:
    odd = unnameable([table.qualified for table in tables])
    if odd:
        raise StepFailed(
            f"{source.side.value}: SerenAI's cloud can't be told of tables whose names hold dots or quotes:"
            f" {', '.join(odd[:5])}",
            remedy="Leave them out by filters.exclude, or copy here: --local.",
        )
    return [
        f"{database}.{t.name}" if t.schema == _PUBLIC else f"{database}.{t.schema}.{t.name}" for t in tables
    ]
