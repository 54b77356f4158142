"""A stand-in for SerenAI's API of jobs and the console's of projects: it really copies and subscribes, and can misbehave.

It is made from the API's description, not from the service. Hosts of the plan's that nobody resolves are dialled at
127.0.0.1.
"""

from __future__ import annotations

import json
import subprocess
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLICATION, SLOT, SUBSCRIPTION = "seren_migration_pub", "seren_migration_slot", "seren_migration_sub"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How a request is answered otherwise: ``status`` instead of doing it, or done and then ``lost`` or ``garbled``.

    ``after`` seconds pass between the work and the answer.
    """

    status: int | None = None
    lost: bool = False
    garbled: bytes | None = None
    after: float = 0.0


@dataclass(kw_only=True)
class MadeJob:
    """A job as the API keeps it. ``gate`` is closed while it is being provisioned, ``target`` is where it writes."""

    id: str
    body: dict[str, Any]
    target: str
    gate: threading.Event
    status: str = "provisioning"
    error: str | None = None
    exit_code: int | None = None
    logs: list[str] = field(default_factory=list)
    asked: int = 0

    def told(self) -> dict[str, Any]:
        done = int(self.status == "completed")
        database = str(self.body["source_url"]).rpartition("/")[2].partition("?")[0]
        progress = {
            "current_database": database,
            "databases_completed": done,
            "databases_total": 1,
            "message": "at work",
        }
        return {
            "job_id": self.id,
            "status": self.status,
            "created_at": "2026-01-01T00:00:00Z",
            "progress": progress,
            "error": self.error,
            "logs": self.logs,
            "exit_code": self.exit_code,
        }


class SerenApi:
    """The API at ``url``, for the key ``key``.

    ``faults`` are taken one for each request of their method, ``failing`` lets every job fail after its copy, ``hold``
    keeps new jobs in provisioning until ``release``. ``on_patch`` is what a changed project's server does. A project's
    ``branches`` are by their ids, each with its ``name`` and the addresses of its ``databases`` by their names.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.jobs: dict[str, MadeJob] = {}
        self.faults: dict[str, list[Fault]] = {"GET": [], "POST": [], "PATCH": []}
        self.projects: dict[str, dict[str, Any]] = {}
        self.failing = False
        self.on_patch: Callable[[], None] = lambda: None
        self.requests: list[tuple[str, str]] = []
        self._open = threading.Event()
        self._open.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[SerenApi]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.release()
            self._server.shutdown()
            self._server.server_close()
            for worker in self._threads:
                worker.join(60)

    def hold(self) -> None:
        self._open = threading.Event()

    def release(self) -> None:
        self._open.set()

    def made(self, command: str) -> list[MadeJob]:
        return [job for job in self.jobs.values() if job.body["command"] == command]

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        if path.startswith("/api/projects"):
            return self._project(method, urlsplit(path).path.split("/")[3:], headers, body)
        if headers.get("x-api-key") != self.key:
            return 401, {"error": f"the key {headers.get('x-api-key')} is not valid"}
        if method == "POST" and path == "/jobs":
            return self._make(json.loads(body))
        job = self.jobs.get(path.removeprefix("/jobs/")) if method == "GET" else None
        if job is None:
            return 404, {"error": "Job not found"}
        job.asked += 1
        return 200, job.told()

    def _make(self, body: dict[str, Any]) -> tuple[int, Any]:
        lacking = {"schema_version", "command", "source_url"} - body.keys()
        if lacking or body["command"] not in {"init", "sync"}:
            return 400, {"error": f"missing: {sorted(lacking)}"}
        try:
            target = str(body.get("target_url") or self._place(body))
        except KeyError as error:
            return 400, {"error": f"missing or not there: {error}"}
        unknown = body["options"].keys() - {"drop_existing", "enable_sync"}
        if unknown:
            return 400, {"error": f"Unknown option: {sorted(unknown)}"}
        job = MadeJob(id=str(uuid.uuid4()), body=body, target=target, gate=self._open)
        self.jobs[job.id] = job
        worker = threading.Thread(target=self._work, args=(job,), daemon=True)
        self._threads.append(worker)
        worker.start()
        return 201, {"job_id": job.id, "status": job.status}

    def _place(self, body: dict[str, Any]) -> str:
        """Where a job goes that is told a project, a branch and one database."""
        (database,) = body["target_databases"]
        branch = self.projects[body["target_project_id"]]["branches"][body["target_branch_id"]]
        if body["seren_api_key"] != self.key:
            raise KeyError("seren_api_key")
        return str(branch["databases"][database])

    def _project(self, method: str, path: list[str], headers: Any, body: bytes) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": "unauthorized"}
        if not path:
            return 200, _page([{"id": name, **_plain(one)} for name, one in self.projects.items()])
        project = self.projects.get(path[0])
        if project is None:
            return 404, {"error": "no such project"}
        if path[1:]:
            return _in_project(project.get("branches", {}), path[2:])
        if method == "PATCH":
            project.update(json.loads(body))
            worker = threading.Thread(target=self.on_patch, daemon=True)
            self._threads.append(worker)
            worker.start()
        return 200, {"data": {"id": path[0], **_plain(project)}}

    def _work(self, job: MadeJob) -> None:
        job.gate.wait(300)
        job.status = "running"
        try:
            job.logs.append(f"source {job.body['source_url']}")
            _copy(job) if job.body["command"] == "init" else _follow(job)
            if self.failing:
                raise RuntimeError(f"could not go on with {job.target}")
        except Exception as error:  # noqa: BLE001  # whatever it is, the job has failed
            job.error, job.exit_code = str(error), 1
            job.logs.append(f"error: {error}")
            job.status = "failed"
            return
        job.exit_code = 0
        job.status = "completed"


def _plain(project: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in project.items() if name != "branches"}


def _page(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": entries, "pagination": {"total": len(entries), "page": 1, "per_page": 100}}


def _in_project(branches: dict[str, Any], path: list[str]) -> tuple[int, Any]:
    if not path:
        return 200, _page([{"id": name, "name": one["name"]} for name, one in branches.items()])
    branch = branches.get(path[0])
    if branch is None or path[1:] not in (["databases"], ["connection-string"]):
        return 404, {"error": "not found"}
    if path[1:] == ["databases"]:
        return 200, _page([{"id": f"db-{name}", "name": name} for name in branch["databases"]])
    return 200, {"connection_string": next(iter(branch["databases"].values()))}


def _handler(api: SerenApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's names
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            api.requests.append((self.command, self.path))
            waiting = api.faults[self.command]
            fault = waiting.pop(0) if waiting else Fault()
            if fault.status is not None:
                self._send(fault.status, json.dumps({"error": "a fault of the test's"}).encode())
                return
            status, told = api.answer(self.command, self.path, self.headers, body)
            SystemClock().sleep(fault.after)
            if fault.lost:
                self.close_connection = True
                self.connection.close()
                return
            self._send(status, fault.garbled if fault.garbled is not None else json.dumps(told).encode())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _dialled(url: str) -> str:
    return conninfo.make_conninfo(url, hostaddr="127.0.0.1")


def _tables(body: dict[str, Any]) -> list[tuple[str, str]]:
    named = [str(name).split(".")[1:] for name in body.get("filter", {}).get("include_tables", [])]
    return [("public", parts[0]) if len(parts) == 1 else (parts[0], parts[1]) for parts in named]


def _copy(job: MadeJob) -> None:
    """Publication, slot with its snapshot, and everything as of it by pg_dump and psql."""
    source, target = _dialled(job.body["source_url"]), _dialled(job.target)
    tables = _tables(job.body)
    named = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
    which = sql.SQL("FOR TABLE {}").format(named) if tables else sql.SQL("FOR ALL TABLES")
    with psycopg.connect(source, autocommit=True) as session:
        session.execute(sql.SQL("CREATE PUBLICATION {} {}").format(sql.Identifier(PUBLICATION), which))
    with psycopg.connect(conninfo.make_conninfo(source, replication="database"), autocommit=True) as holding:
        row = holding.execute(
            sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')").format(
                sql.Identifier(SLOT)
            )
        ).fetchone()
        assert row is not None
        chosen = [f"--table={schema}.{name}" for schema, name in tables]
        dump = subprocess.run(
            [wheel_bin(18) / "pg_dump", f"--snapshot={row[2]}", *chosen, "--dbname", source],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [wheel_bin(18) / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", target],
            input=dump.stdout,
            check=True,
            capture_output=True,
        )


def _follow(job: MadeJob) -> None:
    source, target = _dialled(job.body["source_url"]), _dialled(job.target)
    with psycopg.connect(target, autocommit=True) as session:
        session.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {}"
                " WITH (create_slot = false, slot_name = {}, copy_data = false)"
            ).format(
                sql.Identifier(SUBSCRIPTION),
                sql.Literal(source),
                sql.Identifier(PUBLICATION),
                sql.Literal(SLOT),
            )
        )
