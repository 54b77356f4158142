"""The client against HTTP servers of this machine: what may be asked again, what was settled, what is never said."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import CloudError, UsageError
from planrunner.model import Secret
from planrunner.seren.client import Console, Jobs, is_job_id
from planrunner.seren.job import Command, Job, Place, Stage, standing
from planrunner.seren.line import TOO_MANY, UNANSWERED, UNREADABLE, UNSENT, Line

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = Secret("seren_k3y_0123456789")
PASSWORD = Secret("hunter2")


class Api(ThreadingHTTPServer):
    """Answers what is queued, the last of it for ever; None closes the connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes] | None] = [(200, b"{}")]
        self.seen: list[tuple[str, str, str | None, bytes]] = []
        self.wait = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, self.headers.get("x-api-key"), body))
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        SystemClock().sleep(self.server.wait)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def jobs(api: Api) -> Jobs:
    return Jobs.at(api.url, KEY, (PASSWORD,))


def job(target: str | Place = "postgresql://u:hunter2@t.serendb.com:5432/app") -> Job:
    return Job(
        command=Command.INIT,
        source_url="postgresql://u:hunter2@s.example.com:5432/app",
        target=target,
        filter={"include_databases": ["app"]},
        options={"drop_existing": False},
    )


def test_a_job_is_posted_once_with_its_key(api: Api) -> None:
    api.answers = [(201, b'{"job_id": "j-1", "status": "provisioning"}')]
    found = jobs(api).submit(job())
    assert (found.job_id, found.stage) == ("j-1", Stage.PROVISIONING)
    ((method, path, key, body),) = api.seen
    assert (method, path, key) == ("POST", "/jobs", KEY.reveal())
    assert json.loads(body) == {
        "schema_version": "1.0",
        "command": "init",
        "source_url": "postgresql://u:hunter2@s.example.com:5432/app",
        "target_url": "postgresql://u:hunter2@t.serendb.com:5432/app",
        "filter": {"include_databases": ["app"]},
        "options": {"drop_existing": False},
    }


def test_a_target_may_be_named_instead_of_dialled() -> None:
    body = job(Place(project="p", branch="b", database="app")).body("k")
    assert "target_url" not in body
    named = {
        "target_project_id": "p",
        "target_branch_id": "b",
        "target_databases": ["app"],
        "seren_api_key": "k",
    }
    assert body | named == body


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, UNANSWERED),
        ((200, b"<html>"), UNREADABLE),
        ((200, b"[]"), UNREADABLE),
        ((201, b'{"status": "provisioning"}'), UNREADABLE),
        ((201, b'{"job_id": "../jobs", "status": "x"}'), UNREADABLE),
        ((500, b""), "HTTP 500"),
        ((504, b"{}"), "HTTP 504"),
        ((408, b"{}"), "HTTP 408"),
    ],
)
def test_a_job_that_may_have_been_made_is_not_settled(
    api: Api, answer: tuple[int, bytes] | None, code: str
) -> None:
    api.answers = [answer]
    with pytest.raises(CloudError) as caught:
        jobs(api).submit(job())
    assert (caught.value.code, caught.value.settled) == (code, False)
    assert len(api.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429])
def test_a_job_that_was_refused_is_settled(api: Api, status: int) -> None:
    api.answers = [(status, b'{"error": "no"}')]
    with pytest.raises(CloudError, match=f"it answered {status}: no") as caught:
        jobs(api).submit(job())
    assert caught.value.settled
    assert len(api.seen) == 1


def test_a_job_that_could_not_be_sent_is_settled() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(CloudError, match="not sent: Connection refused") as caught:
            Jobs.at(nobody, KEY).submit(job())
    assert (caught.value.code, caught.value.settled) == (UNSENT, True)


def test_a_server_that_says_nothing_is_given_up(api: Api) -> None:
    api.wait = 2.0
    line = Line(base=api.url, headers={}, hidden=(), reply_seconds=0.2)
    with pytest.raises(CloudError, match="did not answer in time") as caught:
        line.ask("GET", "/jobs/j")
    assert caught.value.code == UNANSWERED


def test_a_redirect_is_not_followed(api: Api) -> None:
    api.answers = [(307, b"")]
    with pytest.raises(CloudError, match="it answered 307"):
        jobs(api).submit(job())
    assert len(api.seen) == 1


def test_how_far_a_job_is_is_asked_again_where_no_answer_comes(api: Api) -> None:
    api.answers = [None, (503, b""), (200, b"{"), (200, b'{"status": "running"}')]
    assert jobs(api).look("j-1").stage is Stage.RUNNING
    assert [seen[1] for seen in api.seen] == ["/jobs/j-1"] * 4


def test_a_job_that_nobody_knows_is_not_asked_for_again(api: Api) -> None:
    api.answers = [(404, b'{"error": "Job not found"}')]
    with pytest.raises(CloudError, match="Job not found"):
        jobs(api).look("j-1")
    assert len(api.seen) == 1


def test_a_key_is_tried_by_a_job_that_there_is_not(api: Api) -> None:
    api.answers = [(404, b"{}")]
    jobs(api).try_key()
    api.answers = [(401, b"{}")]
    with pytest.raises(CloudError, match="it answered 401"):
        jobs(api).try_key()


def test_too_many_calls_are_told_as_such(api: Api) -> None:
    api.answers = [(429, b"{}")]
    with pytest.raises(CloudError) as caught:
        jobs(api).submit(job())
    assert caught.value.code == TOO_MANY


def test_no_message_repeats_what_was_sent(api: Api) -> None:
    said = {"error": f"key {KEY.reveal()} for {job().source_url} with {PASSWORD.reveal()}"}
    api.answers = [(400, json.dumps(said).encode())]
    with pytest.raises(CloudError) as caught:
        jobs(api).submit(job())
    assert "for postgresql://u:***@s.example.com:5432/app with ***" in str(caught.value)
    assert KEY.reveal() not in repr(caught.value)


@pytest.mark.parametrize("base", ["http://replicate.example.com", "ftp://x", "replicate.serendb.com", ""])
def test_no_key_is_sent_to_such_an_address(base: str) -> None:
    with pytest.raises(UsageError, match="seren: "):
        Jobs.at(base, KEY).submit(job())


def test_a_job_says_how_far_it_is() -> None:
    progress = {
        "current_database": "app",
        "databases_completed": 1,
        "databases_total": 3,
        "message": "copying",
    }
    found = standing("j", {"status": "running", "progress": progress, "logs": "a\nb", "exit_code": 0})
    assert found is not None
    assert found.line() == "running: 1 of 3 databases, app, copying"
    assert (found.logs, found.exit_code) == (("a", "b"), 0)


def test_a_status_that_nobody_described_is_none_of_ours() -> None:
    found = standing("j", {"status": "timeout", "progress": "?", "logs": None, "error": 7})
    assert found is not None
    assert (found.stage, found.line(), found.error) == (Stage.UNKNOWN, "timeout", None)
    assert standing("j", {"status": 3}) is None


def test_a_job_is_called_by_plain_words() -> None:
    assert is_job_id("0f8e7a34-1b2c-4d5e-8f90-aabbccddeeff")
    assert not any(map(is_job_id, ("", "../x", "a b", "a/b", "x" * 300)))


def test_a_project_is_told_to_decode_its_wal(api: Api) -> None:
    api.answers = [(200, b'{"data": {"id": "p", "name": "orders", "enable_logical_replication": true}}')]
    console = Console.at(api.url, KEY)
    assert console.enable_logical("p").logical
    ((method, path, key, body),) = api.seen
    assert (method, path, key) == ("PATCH", "/api/projects/p", None)
    assert json.loads(body) == {"enable_logical_replication": True}


def test_a_project_that_does_not_say_whether_it_decodes_is_refused(api: Api) -> None:
    api.answers = [(200, b'{"data": {"id": "p"}}')]
    with pytest.raises(CloudError, match="does not say enable_logical_replication"):
        Console.at(api.url, KEY).project("p")


def test_what_the_console_lists_is_told_by_name_and_id_and_what_it_leaves_out_is_counted(api: Api) -> None:
    page = {"data": [{"id": "br-1", "name": "main"}, {"id": "dev"}], "pagination": {"total": 5}}
    api.answers = [(200, json.dumps(page).encode())]
    found = Console.at(api.url, KEY).branches("p/1")
    assert dict(found.names) == {"br-1": "main", "dev": "dev"}
    assert str(found) == "branches there are: main (br-1), dev, 3 more"
    ((method, path, _, _),) = api.seen
    assert (method, path) == ("GET", "/api/projects/p%2F1/branches")


@pytest.mark.parametrize(
    "body", [b"{}", b'{"data": {}}', b'{"data": ["main"]}', b'{"data": [{"name": "main"}]}']
)
def test_a_list_that_can_not_be_read_is_refused(api: Api, body: bytes) -> None:
    api.answers = [(200, body)]
    with pytest.raises(CloudError, match="the answer lists no projects"):
        Console.at(api.url, KEY).projects()


def test_a_project_that_is_not_there_is_told_with_those_that_are(api: Api) -> None:
    api.answers = [(404, b"{}"), (200, b'{"data": [{"id": "pr-1", "name": "orders"}]}')]
    with pytest.raises(CloudError, match=r"sees no project pr-9; projects there are: orders \(pr-1\)"):
        Console.at(api.url, KEY).project("pr-9")


def test_the_host_of_a_branch_is_told_and_its_password_is_not(api: Api) -> None:
    api.answers = [(200, b'{"connection_string": "postgresql://u:s3cret@ep-1.serendb.com/app"}')]
    assert Console.at(api.url, KEY).host("p", "b") == "ep-1.serendb.com"
    api.answers = [(200, b'{"connection_string": "s3cret"}')]
    with pytest.raises(CloudError, match="names no host") as raised:
        Console.at(api.url, KEY).host("p", "b")
    assert "s3cret" not in str(raised.value) + str(raised.value.remedy)
