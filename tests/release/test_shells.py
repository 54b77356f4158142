"""What the shells offer, asked of the shells themselves, and the man page as man and mandoc read it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planrunner import errors
from release import manual, shared
from tests.pages import ROOT
from tests.terminal import terminal

PLAN = """apiVersion: planrunner/v1
kind: MigrationPlan
steps:
  - {id: check, uses: validate}
  - {id: copy, uses: snapshot}
  - {id: compare, uses: verify}
"""
# How each shell is asked what it would offer for a line.
ASKED = {
    "bash": """
words=({words})
COMP_WORDS=("${{words[@]}}"); COMP_CWORD=$((${{#words[@]}} - 1))
_planrunner_completion planrunner; printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
_arguments() {{ print -r -- "$*" }}
_files() {{ print -r -- "(any file)" }}
words=({words}); CURRENT=$#words
_planrunner_completion
""",
    "fish": "complete -C {line}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.yaml").write_text(PLAN)
    (tmp_path / "orders.prod.yaml").write_text(
        "extends: orders.yaml\nsteps:\n  - {id: cut, uses: cutover_verify, after: compare}\n"
    )
    (tmp_path / "notes.txt").write_text("")
    # The name tells the command that it is asked what it would offer.
    program = Path(sys.executable).with_name("planrunner")
    assert program.exists(), "install the checkout: make"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/planrunner").symlink_to(program)
    return tmp_path


def offered(shell: str, folder: Path, *words: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    quoted = " ".join(map(shlex.quote, ("planrunner", *words)))
    begin = "autoload -U compinit; compinit -u -D\n" if shell == "zsh" else ""
    script = f"{begin}source {ROOT / shared.SHELLS[shell]}\n" + ASKED[shell].format(
        words=quoted, line=shlex.quote(quoted)
    )
    plain = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ended = subprocess.run(
        [shell, *plain, "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_person_at_a_bash_presses_tab(folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PS1": "ready> ",
        "INPUTRC": "/dev/null",
    }
    shell = (str(shutil.which("bash")), "--noprofile", "--norc", "-i")
    with terminal([], folder=folder, environment=environment, kind="xterm", program=shell) as there:
        there.expect("ready> ")
        there.type(f"source {ROOT / shared.SHELLS['bash']}")
        there.expect("ready> ")
        there.press("planrunner appr\t")
        there.expect("planrunner approve ")
        there.press("orders.p\t")
        there.expect("orders.prod.yaml ")
        there.press("comp\t")
        there.expect("compare ")
        there.press("\x15exit\n")
        assert there.wait() == 0


@pytest.mark.parametrize("shell", ASKED)
def test_verbs_plans_and_steps_are_offered(shell: str, folder: Path) -> None:
    verbs = offered(shell, folder, "ro")
    assert "rollback" in verbs
    assert "report" not in verbs
    plans = offered(shell, folder, "run", "or")
    assert {"orders.yaml", "orders.prod.yaml"} <= set(plans.replace('"', " ").split())
    assert "notes" not in plans
    # The steps of the base too, though the overlay names one alone.
    steps = offered(shell, folder, "approve", "orders.prod.yaml", "c")
    assert all(name in steps for name in ("check", "copy", "compare", "cut"))
    assert "check" not in offered(shell, folder, "approve", "orders.yaml", "co")


def test_bash_offers_the_steps_for_an_option_too_and_what_can_be_explained(folder: Path) -> None:
    assert offered("bash", folder, "run", "orders.yaml", "--until", "").split() == [
        "check",
        "copy",
        "compare",
    ]
    assert offered("bash", folder, "explain", "sn").split() == ["snapshot"]
    assert "PR0203" in offered("bash", folder, "explain", "PR02").split()


def test_a_plan_that_cannot_be_read_offers_nothing_and_says_nothing(folder: Path) -> None:
    (folder / "broken.yaml").write_text("steps: [{id: }")
    assert offered("bash", folder, "approve", "broken.yaml", "").strip() == ""
    assert offered("bash", folder, "approve", "missing.yaml", "").strip() == ""


@pytest.mark.parametrize("path", shared.files())
def test_what_is_laid_beside_the_package_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text("utf-8") == shared.files()[path], "run `make docs`"


def test_the_man_page_tells_every_exit_code() -> None:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.PlanrunnerError)}
    assert manual.EXITS.keys() == codes | {0, 10}


def test_man_and_mandoc_have_nothing_to_say_against_the_page() -> None:
    page = str(ROOT / "share/man/man1/planrunner.1")
    for program in ("man", "mandoc"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine")
    shown = subprocess.run(
        ["man", "--warnings=w", "--local-file", page],
        env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    assert "planrunner cutover [OPTIONS] {PLAN}" in shown.stdout
    assert "--rehearse" in shown.stdout
    told = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "all", page], capture_output=True, text=True, check=False
    )
    # It has no date: each release would be another page.
    assert [line for line in told.stdout.splitlines() if "missing date" not in line] == []
