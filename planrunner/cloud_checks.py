"""The checks of a migration that SerenAI's cloud makes: where it runs, what it can be told, whom it can reach."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner import cloud_requests, cloud_target
from planrunner.cloud_jobs import Noted
from planrunner.errors import PlanrunnerError
from planrunner.loading.seren import untold
from planrunner.model import Mark, RunOn
from planrunner.postgres import catalog, preflight_local
from planrunner.postgres.preflight_section import SEREN, Check, counted, some
from planrunner.workspace import polls, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding, Plan
    from planrunner.postgres.connection import Server
    from planrunner.step import Run

_HERE = "Copy and stream here: --local, or run_on: local in connections.target.seren."
# What a job can't be told of and what changes only how fast or how a copy here goes.
_HEEDED = frozenset({"filters"})

KEY = Check(
    code="PR1401",
    section=SEREN,
    title="SerenAI's API takes the key",
    why="Without a key that it takes no job can be made or asked for.",
    mend="Make a key in SerenDB's console and export SEREN_API_KEY, or run here with --local.",
)
TOLD = Check(
    code="PR1402",
    section=SEREN,
    title="What the plan selects can be said to the cloud",
    why="A job knows databases and tables to include and to exclude, and nothing of rows or of single choices: what it"
    " is not told it does its own way.",
    mend="Take the option out, or copy here with --local or run_on: local.",
)
REACHED = Check(
    code="PR1403",
    section=SEREN,
    title="The cloud can dial both databases",
    why="The job runs in SerenAI's cloud: it needs an address of the source that is reachable from there, and a"
    " password that lasts as long as the job.",
    mend="Name the source's public host, let SerenAI's addresses in, and give both logins a password; or copy here.",
)
CUTOVER = Check(
    code="PR1404",
    section=SEREN,
    title="The stream that the cutover rests on is planrunner's own",
    why="A cutover waits for its own markers in the stream and ends it afterwards. The cloud's stream carries no"
    " markers, and is not planrunner's to end.",
    mend="Copy and stream here with --local or run_on: local; or take cutover_verify out, put a verify step in its"
    " place, and lead the writers over yourself.",
    never_ignored="no marker would arrive, and the cutover would wait for it in vain",
)
PLACE = Check(
    code="PR1405",
    section=SEREN,
    title="Where copy and stream are made",
    why="A target at SerenDB can be filled by SerenAI's cloud or from here, and an API key in the environment decides"
    " it.",
    mend="Say it: run_on: cloud or run_on: local in connections.target.seren, or --local.",
)
EMPTY = Check(
    code="PR1406",
    section=SEREN,
    title="The target is empty before the cloud copies",
    why="The cloud's tool decides by itself what to do with tables that are there already, and may replace them.",
    mend="Empty the target. If an earlier job has filled it, name that job with planrunner state job.",
)


def placed(plan: Plan) -> Iterator[Finding]:
    """That the target is at SerenDB and where copy and stream are made; nothing for another target."""
    seren = plan.target.seren
    if seren is None:
        return
    if seren.place is RunOn.LOCAL:
        yield PLACE.passed(f"Target is at SerenDB; copy and stream are made here: {seren.why}")
        return
    text = f"Target is at SerenDB; copy and stream are made by SerenAI's cloud: {seren.why}"
    if seren.run_on is RunOn.CLOUD:
        yield PLACE.passed(text)
    else:
        yield PLACE.warned(
            text,
            "Write run_on: cloud in connections.target.seren where you mean it; with --local they are made here.",
        )


def before_copy(run: Run) -> Sequence[Finding]:
    """Whether the job of a copy can be made; nothing once one is made, or may be."""
    if not Noted.of(run.noted(run.spec.id)).to_make:
        return ()
    return [_key(run), *_told(run), *_reached(run), *cloud_target.findings(run), *_empty(run)]


def before_cutover(plan: Plan) -> Sequence[Finding]:
    """That there is no cutover by the cloud's stream."""
    assert plan.target.seren is not None
    text = f"The cutover needs planrunner's own stream, and SerenAI's cloud makes it here ({plan.target.seren.why})"
    return [CUTOVER.failed(text, _HERE)]


def eased(found: Sequence[Finding]) -> Sequence[Finding]:
    """The preflight where nothing is dumped or restored from this machine."""
    local = {preflight_local.PROGRAMS.code, preflight_local.PSQL.code}
    return [replace(f, mark=Mark.WARN) if f.code in local and f.mark is Mark.FAIL else f for f in found]


def _key(run: Run) -> Finding:
    seren = cloud_requests.seren_of(run.plan)
    try:
        cloud_requests.client(run).try_key()
    except PlanrunnerError as error:
        return KEY.failed(error.message, error.remedy)
    return KEY.passed(f"SerenAI's API at {seren.base} takes the key of {seren.api_key}")


def _told(run: Run) -> Iterator[Finding]:
    options = dict(run.spec.options)
    lost = [f"{'.'.join(path)} in step {run.spec.id}" for path in untold(options)]
    lost += ["mode: poll of the sync step"] if polls(run.plan) else []
    if lost:
        yield TOLD.failed(f"SerenAI's cloud can't be told of {', '.join(lost)}", _HERE)
        return
    names = [t.qualified for t in workspace(run).selection.carried(catalog.tables(run.source))]
    odd = [] if workspace(run).selection.everything else cloud_requests.unnameable(names)
    if odd:
        yield TOLD.failed(f"SerenAI's cloud can't be told of tables of such names: {some(odd)}", _HERE)
        return
    idle = sorted(options.keys() - _HEEDED)
    if idle:
        text = f"SerenAI's cloud goes its own way about {', '.join(idle)} of step {run.spec.id}"
        yield TOLD.warned(text, "Take them out, so that nobody relies on them; or copy here with --local.")
        return
    yield TOLD.passed("What the plan selects can be said to SerenAI's cloud")


def _reached(run: Run) -> Iterator[Finding]:
    found = [*_dialled(run.source), *_passwords(run)]
    ours, theirs = run.source.parameters().get("dbname"), run.target.parameters().get("dbname")
    if ours != theirs:
        text = f"The databases are called {ours} and {theirs}; the cloud's tool copies to one of the source's name"
        found.append(REACHED.warned(text, f"Call the target's database {ours}."))
    yield from found or [REACHED.passed("The cloud is given an address and a password of both databases")]


def _dialled(source: Server) -> Iterator[Finding]:
    host = source.parameters_elsewhere().get("host", "localhost")
    if _only_here(host):
        yield REACHED.failed(
            f"Source is dialled at {host}, which SerenAI's cloud can't reach",
            "Name a host that is reachable from outside, in the DSN or as source_as_seen_from_target; or --local.",
        )


def _only_here(host: str) -> bool:
    if host.startswith("/") or host == "localhost" or "," in host:
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _passwords(run: Run) -> Iterator[Finding]:
    named = cloud_requests.seren_of(run.plan)
    by_name = named.project is not None and named.branch is not None
    for end in (run.plan.source, *(() if by_name else (run.plan.target,))):
        if end.password is None:
            what = "a token of IAM, which lasts 15 minutes" if end.rds_iam else "no password in the plan"
            text = f"{end.side.value.capitalize()}'s login has {what}: SerenAI's cloud could not log in"
            yield REACHED.failed(
                text, f"Write connections.{end.side.value}.password: {{secret: …}}; or --local."
            )


def _empty(run: Run) -> Iterator[Finding]:
    wanted = {t.qualified for t in workspace(run).selection.carried(catalog.tables(run.source))}
    there = sorted(t.qualified for t in catalog.tables(run.target) if t.qualified in wanted)
    if there:
        told = f"Target has {counted(len(there), 'table')} of the plan's already: {some(there)}"
        yield EMPTY.failed(
            told,
            "Empty it; or, if an earlier job has filled it, name that job: planrunner state job"
            f" {run.plan.path} {run.spec.id} --id JOB_ID --because REASON.",
        )
    else:
        yield EMPTY.passed("Target has none of the plan's tables yet")
