"""Where the bytes of one COPY come from: a psql child and its pipe, or a session of our own.

psql keeps Python out of the per-row path: it writes the stream into a pipe, we move megabytes. End of stream
is not success: only psql's exit status and the row count it was told by the server are.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner import scarcity
from planrunner.errors import ToolFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import tools
from planrunner.postgres.connection import PINNED
from planrunner.postgres.passwords import with_password
from planrunner.postgres.tls import encrypted, for_another_libpq
from planrunner.postgres.wire import BLOCK_BYTES, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from planrunner.model import Secret
    from planrunner.postgres.connection import Server
    from planrunner.postgres.line import Line

# Linux's number for F_SETPIPE_SZ; elsewhere the pipe keeps its size.
_SETPIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_TAG = re.compile(rb"^COPY (\d+)$", re.MULTILINE)
_YOUNGER = {"transaction_timeout": 170000}
_END_SECONDS = 30.0
_CONNECTED = b"planrunner-connected"


class SessionFeed:
    """A COPY TO STDOUT on a session inside the snapshot."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def blocks(self, statement: sql.Composed) -> Iterator[bytes]:
        """The stream of ``statement``; ``rows`` is good once it has ended."""
        self._wire.send(statement)
        self._wire.until_copy()
        yield from self._wire.blocks()

    def rows(self) -> int:
        """The rows that the source sent, by its own count."""
        rows = self._wire.copied()
        list(self._wire.results())
        return rows


class PsqlFeed:
    """A COPY TO STDOUT by a psql child inside the snapshot; made by ``psql_feed``."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        line: Line,
        stream: int,
        words: IO[bytes],
        secret: str,
        what: str,
    ) -> None:
        self._child = child
        self._what = what
        self._line = line
        self._stream = stream
        self._words = words
        self._secret = secret

    def blocks(self) -> Iterator[bytes]:
        """The stream in large blocks, up to the pipe's end."""
        while block := os.read(self._stream, BLOCK_BYTES):
            self._line.heard()
            yield block

    def rows(self) -> int:
        """The rows that the source sent; ToolFailed unless psql ended well and was told a count.

        ConnectionFailed when its line was cut because it was silent.
        """
        assert self._child.stdout is not None
        told = self._child.stdout.read()
        code = self._child.wait(_END_SECONDS)
        tag = _TAG.search(told)
        if code != 0 or tag is None:
            self._words.seek(0)
            words = self._words.read()
            raise self._line.silenced() or tools.tool_failure(self._what, code, words, self._secret)
        return int(tag[1])


@dataclass(frozen=True, kw_only=True)
class Psql:
    """The psql program to use, and the source's ``server_version_num``."""

    program: Path
    version: int

    @classmethod
    def find(cls, source: Server) -> Psql | None:
        """A psql of this machine that can be used for ``source``, None when there is none."""
        version = source.identity().version
        able = tools.candidates(version, tls=encrypted(source.parameters()))
        program = next((t.psql for t in able if t.psql is not None), None)
        return None if program is None else cls(program=program, version=version)

    @contextmanager
    def feed(
        self, source: Server, snapshot: str | None, statement: sql.Composed, *, what: str = "psql"
    ) -> Iterator[PsqlFeed]:
        """Start psql on ``statement``, inside ``snapshot`` where there is one; the child is gone after the block.

        ``what`` names it where it fails.
        """
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as words, os.fdopen(reading, "rb", buffering=0):
            try:
                _enlarge(writing)
                script = self._script(snapshot, statement, stream=writing)
                child, hidden = with_password(
                    source, lambda secret: self._connected(source, writing, words, secret, script)
                )
            finally:
                os.close(writing)
            try:
                failpoint("psql.started")
                with source.line.tethered(child.kill):
                    yield PsqlFeed(child, source.line, reading, words, hidden, what)
            finally:
                _end(child)

    def _connected(
        self, source: Server, stream: int, words: IO[bytes], secret: Secret | None, script: bytes
    ) -> tuple[subprocess.Popen[bytes], str]:
        """A psql at work on ``script``; ToolFailed when it gets no session."""
        with tools.dialling(for_another_libpq(source.parameters()), secret) as handed:
            failpoint("psql.before_start")
            child = self._spawn(handed, stream, words)
            try:
                _tell(child, script)
                assert child.stdout is not None
                # psql reads its script when it has a session, and so says the word only then.
                with source.line.tethered(child.kill):
                    if child.stdout.readline().strip() == _CONNECTED:
                        return child, handed.secret
                code = child.wait(_END_SECONDS)
                words.seek(0)
                raise source.line.silenced() or tools.tool_failure("psql", code, words.read(), handed.secret)
            except BaseException:
                _end(child)
                words.seek(0)
                words.truncate()
                raise

    def _spawn(self, handed: tools.Handed, stream: int, words: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [self.program, "-X", "-v", "ON_ERROR_STOP=1", "-d", handed.dial, "-f", "-"],
                env=tools.tool_environment(handed.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                pass_fds=(stream, *handed.handles),
            )
        except OSError as error:
            if scarcity.short(error):
                raise
            raise ToolFailed(f"local: psql could not be started: {error.strerror}: {self.program}") from error

    def _script(self, snapshot: str | None, statement: sql.Composed, *, stream: int) -> bytes:
        pinned = {k: v for k, v in PINNED.items() if self.version >= _YOUNGER.get(k, 0)}
        lines: list[sql.Composable] = [
            sql.SQL("SET {} = {};").format(sql.Identifier(k), _setting(k, v)) for k, v in pinned.items()
        ]
        lines.append(sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"))
        if snapshot is not None:
            lines.append(sql.SQL("SET TRANSACTION SNAPSHOT {};").format(sql.Literal(snapshot)))
        text = sql.SQL("\n").join([*lines, statement]).as_string()
        # The data leaves by a descriptor of its own, so stdout holds only the server's command tags.
        return b"\\echo %b\n%b\n\\g /dev/fd/%d\n" % (_CONNECTED, text.encode(), stream)


def _setting(name: str, value: str) -> sql.Composable:
    # A list setting takes its parts one by one; quoted together they would be one word.
    return (
        sql.SQL(", ").join(map(sql.Literal, value.split(", "))) if name == "datestyle" else sql.Literal(value)
    )


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, _SETPIPE_SIZE, BLOCK_BYTES)
    except OSError:
        return


def _tell(child: subprocess.Popen[bytes], script: bytes) -> None:
    assert child.stdin is not None
    # A psql that could not connect is gone before it has read: its exit status and words say why, see ``rows``.
    with suppress(BrokenPipeError):
        child.stdin.write(script)
    with suppress(BrokenPipeError):
        child.stdin.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None and not stream.closed:
            with suppress(BrokenPipeError):
                stream.close()
    if child.poll() is None:
        child.kill()
    child.wait(_END_SECONDS)
