"""Hostile plans and files: refused or used in a way that is told, soon; nothing is executed, and nothing leaks.

A plan's author may name files: the certificates and secrets are read, and the content is never shown. Whoever sits at
the command line may name any file; what is meant to be a plan or values is quoted where it is wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from planrunner.cli import main
from planrunner.masking import speak
from tests.faults import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# In our environment, and in files that a plan names: neither is ever shown.
CANARY = "canary-5e1f90b7c3"
# Of the processor, not of the clock: another process's load is no fault of ours.
MOST_SECONDS = 2.0

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a command ended, and all that it said."""

    code: int
    text: str


class Place:
    """A folder with files that are not to be shown, and the command line within this process."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capfd = capfd
        (folder / "outside").mkdir()
        (folder / "inside").mkdir()
        (folder / "outside" / "canary.txt").write_text(f"{CANARY}\n")
        (folder / "outside" / "canary.yaml").write_text(f"kind: {CANARY}\nsteps: [{CANARY}]\n")
        (folder / "outside" / "canary.sql").write_text(f"SELECT '{CANARY}';\n")

    @property
    def plan(self) -> Path:
        return self.folder / "inside" / "plan.yaml"

    def write(self, **changes: object) -> None:
        tree = {
            "apiVersion": "planrunner/v1",
            "kind": "MigrationPlan",
            "metadata": {"name": "hostile"},
            "vars": {"name": {"default": "x"}, "other": {"default": "never met"}},
            "connections": {side: self.connection() for side in ("source", "target")},
            "steps": [{"id": "first", "uses": "validate"}],
            **changes,
        }
        tree["connections"]["target"]["dsn"] += "2"  # type: ignore[index]
        # Not by YAML's own quoting: a payload is to arrive as it is.
        self.plan.write_text(json.dumps(tree), "utf-8", "surrogatepass")

    def connection(self, **more: object) -> dict[str, object]:
        # Nobody listens there.
        return {"dsn": "postgresql://a@127.0.0.1:1/app", **more}

    def run(self, *words: str) -> Told:
        """A command; what holds for every one of them is asserted here."""
        before = time.process_time()
        argv, sys.argv = sys.argv, ["planrunner", *words]
        try:
            main.main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv = argv
            speak()
        took = time.process_time() - before
        told = Told(code=int(str(code)), text="".join(self._capfd.readouterr()))
        self._assert_harmless(told, took)
        return told

    def _assert_harmless(self, told: Told, took: float) -> None:
        assert told.code in {0, 1, 2, 6}, told.text
        assert took < MOST_SECONDS, f"{took:.1f} s of the processor"
        assert "Traceback" not in told.text
        assert CANARY not in told.text, told.text
        assert not [char for char in told.text if char != "\n" and not char.isprintable()], repr(told.text)
        assert len(told.text) < 100_000, "an error that nobody reads"
        assert not list(self.folder.rglob("MARK")), "something was executed"
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and not {"outside", "up"} & {*path.parts}:
                assert CANARY.encode() not in path.read_bytes(), path
        if told.code:
            assert "error" in told.text, told.text


@pytest.fixture
def place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", CANARY)
    monkeypatch.setenv("SOURCE_PASSWORD", CANARY)
    monkeypatch.setenv("HOME", str(tmp_path / "outside"))
    yield Place(tmp_path, capfd)
    speak()


@pytest.mark.parametrize("payload", hostile.REFUSED)
def test_a_template_that_would_do_more_than_look_a_variable_up_is_refused(place: Place, payload: str) -> None:
    place.write(metadata={"name": "hostile", "description": payload})
    told = place.run("render", str(place.plan))
    assert told.code == 2, told.text
    assert "metadata.description" in told.text


@pytest.mark.parametrize("payload", hostile.DEFINED)
def test_what_only_looks_like_a_template_stays_text(place: Place, payload: str) -> None:
    place.write(
        metadata={"name": "hostile", "description": payload},
        vars={"name": {}, "other": {"default": "never met"}},
    )
    told = place.run("render", str(place.plan), "--output", "json", "--var", "name={{ vars.other }}")
    assert told.code == 0, told.text
    assert json.dumps(hostile.DEFINED[payload]) in told.text
    assert "never met" not in told.text.replace('"default": "never met"', "")


@pytest.mark.parametrize("payload", ["{{ ''.__class__ }}", "{{ vars.name }}", "{{ cycler }}"])
def test_templates_where_none_may_stand_are_refused(place: Place, payload: str) -> None:
    wrong = [
        {"steps": [{"id": payload, "uses": "validate"}]},
        {"steps": [{"id": "a", "uses": payload}]},
        {"kind": payload},
        {"vars": {"name": {"default": payload}}},
        {"vars": {payload: {"default": "x"}}},
        {"extends": payload},
        {
            "connections": {
                s: place.connection(password={"secret": {"env": payload}}) for s in ("source", "target")
            }
        },
        {payload: 1},
    ]
    for changes in wrong:
        place.write(**changes)
        assert place.run("lint", str(place.plan)).code == 2, changes


@pytest.mark.parametrize("text", hostile.CONDITIONS)
def test_a_condition_that_would_do_more_than_compare_is_refused(place: Place, text: str) -> None:
    place.write(steps=[{"id": "first", "uses": "validate"}, {"id": "next", "uses": "validate", "when": text}])
    told = place.run("lint", str(place.plan))
    assert told.code == 2, told.text


@pytest.mark.parametrize("name", hostile.YAML)
def test_what_is_no_plan_is_refused(place: Place, name: str) -> None:
    place.plan.write_bytes(hostile.YAML[name])
    assert place.run("lint", str(place.plan)).code == 2


@pytest.mark.parametrize("name", hostile.YAML)
def test_what_is_no_plan_is_no_file_of_variables(place: Place, name: str) -> None:
    place.write()
    other = place.folder / "inside" / "values.yaml"
    other.write_bytes(hostile.YAML[name])
    told = place.run("lint", str(place.plan), "--var-file", str(other))
    # An empty file, or one of comments, is told too: somebody meant to give something.
    assert told.code == 2, told.text


def odd_files(folder: Path) -> dict[str, str]:
    """Names of files that are none, made where they have to be made."""
    inside = folder / "inside"
    os.mkfifo(inside / "pipe")
    (inside / "folder").mkdir()
    (inside / "loop").symlink_to("loop")
    (inside / "out").symlink_to("../outside/canary.yaml")
    (inside / "up").symlink_to("..")
    closed = inside / "closed"
    closed.write_text("closed")
    closed.chmod(0)
    return {
        "parent": "../outside/canary.yaml",
        "shadow": "../../../../../../../../../../etc/shadow",
        "absolute": str(folder / "outside" / "canary.txt"),
        "link out": "out",
        "link up": "up/outside/canary.sql",
        "loop": "loop",
        "loop below": "loop/x",
        "pipe": "pipe",
        "folder": "folder",
        "itself": ".",
        "parent folder": "..",
        "root": "/",
        "zero": "/dev/zero",
        "null": "/dev/null",
        "stdin": "/dev/stdin",
        "full": "/dev/full",
        "environment": "/proc/self/environ",
        "command line": "/proc/self/cmdline",
        "memory": "/proc/self/mem",
        "descriptor": "/proc/self/fd/0",
        "url": f"file://{folder}/outside/canary.txt",
        "http": "http://127.0.0.1:1/x",
        "home": "~/canary.txt",
        "variable": "$HOME/canary.txt",
        "shell": "$(touch MARK)",
        "pipe sign": "|touch MARK",
        "absent": "absent",
        "below a file": "plan.yaml/x",
        "long": "a" * 5_000,
        "long way": "a/" * 2_500 + "a",
        "unicode": "ﬁle\u202e.txt",
        "newline": "a\nb",
        "escape": "a\x1b[2Jb",
        "dash": "-",
        "option": "--help",
        "empty": "",
        "blank": " ",
        "closed": "closed",
    }


ODD = (
    *(
        "parent",
        "shadow",
        "absolute",
        "link out",
        "link up",
        "loop",
        "loop below",
        "pipe",
        "folder",
        "itself",
    ),
    *("parent folder", "root", "zero", "null", "stdin", "full", "environment", "command line", "memory"),
    *(
        "descriptor",
        "url",
        "http",
        "home",
        "variable",
        "shell",
        "pipe sign",
        "absent",
        "below a file",
        "long",
    ),
    *("long way", "unicode", "newline", "escape", "dash", "option", "empty", "blank", "closed"),
)


@pytest.mark.parametrize("which", ODD)
def test_files_that_a_plan_names_are_used_or_refused_and_never_shown(place: Place, which: str) -> None:
    odd = odd_files(place.folder)
    assert tuple(odd) == ODD
    name = odd[which]
    for changes in _plans_that_name(place, name):
        place.write(**changes)
        place.run("lint", str(place.plan))
        # Nobody listens: what can be read is read before, and the rest is refused.
        assert place.run("preview", str(place.plan)).code, changes
    place.write(extends=name)
    assert place.run("lint", str(place.plan)).code == 2


def _plans_that_name(place: Place, name: str) -> Iterator[dict[str, object]]:
    target = place.connection()
    yield {"connections": {"source": place.connection(ca=name), "target": target}}
    secret = {"password": {"secret": {"file": name}}}
    yield {"connections": {"source": place.connection(**secret), "target": place.connection()}}
    yield {"steps": [{"id": "run", "uses": "sql", "with": {"file": name}}]}
    sensitive = {"name": {"sensitive": True, "secret": {"file": name}}}
    yield {"vars": sensitive, "metadata": {"name": "hostile"}}


@pytest.mark.parametrize("which", ODD)
def test_files_that_the_command_line_names_neither_hang_nor_overwhelm(place: Place, which: str) -> None:
    name = odd_files(place.folder)[which]
    if "canary" in name or which in {"link out", "closed", "environment"}:
        pytest.skip("whoever sits at the command line may read it, and is shown the line that is wrong")
    place.write()
    os.chdir(place.folder / "inside")
    plan = str(place.plan)
    words = [
        ("lint", f"--var-file={name}", plan),
        ("run", plan, f"--expect={name}"),
        ("status", plan, f"--state={name}"),
        ("run", plan, f"--state={name}"),
        ("report", plan, f"--state={name}"),
        ("state", "show", plan, f"--state={name}"),
    ]
    for command in words:
        assert place.run(*command).code in {0, 1, 2, 6}, command


@pytest.mark.parametrize(
    "which", ["parent folder", "root", "loop", "loop below", "pipe", "full", "below a file", "long"]
)
def test_nothing_is_written_where_nothing_can_be(place: Place, which: str) -> None:
    name = odd_files(place.folder)[which]
    place.write()
    os.chdir(place.folder / "inside")
    told = place.run("lint", str(place.plan), f"--out={name}")
    assert told.code == 2, told.text
    assert "cannot write" in told.text


@pytest.mark.parametrize(
    "words", [["touch MARK"], ["touch", "$(touch MARK)"], ["sh; touch MARK"], ["`touch MARK`"]]
)
def test_a_commands_words_go_to_no_shell(place: Place, words: list[str]) -> None:
    named = {"password": {"secret": {"command": words}}}
    place.write(connections={"source": place.connection(**named), "target": place.connection()})
    told = place.run("preview", str(place.plan))
    assert told.code == 1, told.text
    # Even a program called by that whole name would make another file.
    assert not (place.folder / "MARK").exists()


def test_there_are_as_many_payloads_as_were_promised() -> None:
    count = len(hostile.REFUSED) + len(hostile.DEFINED) + len(hostile.CONDITIONS) + 2 * len(hostile.YAML)
    assert count + len(ODD) >= 150
