"""The GitHub Action, the pre-commit hook and the recipes, as far as they run without GitHub."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from planrunner import errors
from planrunner.cli.main import app

ROOT = Path(__file__).parents[2]
ACTION: Any = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
RECIPES = (ROOT / "docs/how-to/run-in-ci.md").read_text("utf-8")
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A folder with what GitHub's runner sets."""

    folder: Path
    environ: dict[str, str]

    def run(
        self, name: str, contexts: dict[str, str] | None = None, **inputs: str
    ) -> subprocess.CompletedProcess[str]:
        """One step of the action, as the runner starts it."""
        known = {f"inputs.{key}": str(value.get("default", "")) for key, value in ACTION["inputs"].items()}
        known |= {f"inputs.{key.replace('_', '-')}": value for key, value in inputs.items()}
        known |= {
            "github.action_path": str(ROOT),
            "github.event.pull_request.number": "7",
            **(contexts or {}),
        }
        step = STEPS[name]
        own = {key: EXPRESSION.sub(lambda m: known[m[1]], str(value)) for key, value in step["env"].items()}
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        return subprocess.run(
            # So the runner starts `shell: bash`.
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.folder,
            env={**self.environ, **own},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def written(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")


def program(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    program(tmp_path, "planrunner", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m planrunner "$@"\n')
    files = {
        name: tmp_path / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
    }
    for path in files.values():
        path.touch()
    shutil.copytree(ROOT / "plans", tmp_path / "plans")
    environ = {
        **os.environ,
        **{name: str(path) for name, path in files.items()},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "GITHUB_REPOSITORY": "team/shop",
        "RUNNER_TEMP": str(tmp_path),
    }
    return Job(folder=tmp_path, environ=environ)


def test_the_action_is_a_composite_action_whose_parts_fit_together() -> None:
    assert ACTION["runs"]["using"] == "composite"
    named = set(EXPRESSION.findall((ROOT / "action.yml").read_text("utf-8")))
    ids = {step["id"] for step in STEPS.values() if "id" in step}
    for expression in named:
        kind, name, *_ = expression.split(".")
        assert kind in {"inputs", "steps", "github"}
        assert kind != "inputs" or name in ACTION["inputs"]
        assert kind != "steps" or name in ids
    for step in STEPS.values():
        assert step["shell"] == "bash"
        # Expressions in a script would run what a branch or a title says.
        assert "${{" not in step["run"]
    for value in ACTION["inputs"].values():
        assert {"description", "default"} <= value.keys()


def test_the_scripts_are_what_bash_reads() -> None:
    for step in STEPS.values():
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


def test_lint_accepts_good_plans_and_writes_sarif(job: Job) -> None:
    ended = job.run(
        "Lint", strict="true", sarif="found.sarif", variables="region=eu-west-1\n", plans="plans/rds*\n"
    )

    assert ended.returncode == 0, ended.stderr
    assert '"version": "2.1.0"' in job.written("found.sarif")
    assert "sarif=found.sarif" in job.written("github_output")


def test_lint_annotates_and_fails_on_a_broken_plan(job: Job) -> None:
    path = job.folder / "plans" / "with space.yaml"
    path.write_text(job.written("plans/demo.yaml").replace("uses: sync", "uses: snyc"))
    ended = job.run("Lint", sarif="found.sarif", plans="plans/with space.yaml\nplans/demo.yaml")

    assert ended.returncode == 2
    assert "::error file=plans/with space.yaml,line=" in ended.stdout
    assert "PR013" in job.written("found.sarif")


@pytest.mark.parametrize(("code", "changes"), [(0, "false"), (10, "true")])
def test_preview_is_written_and_told(code: int, changes: str, job: Job) -> None:
    program(job.folder, "planrunner", _previewer(code))
    ended = job.run("Preview", preview="plans/demo.yaml", variables="a=b c")

    assert ended.returncode == 0, ended.stderr
    assert job.written("planrunner-preview.md").startswith(
        "<!-- planrunner preview of plans/demo.yaml -->\n# Preview"
    )
    assert f"changes={changes}" in job.written("github_output")
    assert "# Preview" in job.written("github_step_summary")
    arguments = job.written("arguments").splitlines()
    assert arguments[:3] == ["preview", "--offline", "--var=a=b c"]
    assert arguments[-2:] == ["--", "plans/demo.yaml"]


def test_a_preview_that_finds_a_failing_check_is_written_and_fails(job: Job) -> None:
    program(job.folder, "planrunner", _previewer(1))
    ended = job.run("Preview", preview="plans/demo.yaml")

    assert ended.returncode == 1
    assert "# Preview" in job.written("planrunner-preview.md")
    assert "file=planrunner-preview.md" in job.written("github_output")


def test_a_preview_of_a_broken_plan_fails_as_planrunner_does(job: Job) -> None:
    (job.folder / "bad.yaml").write_text("kind: MigrationPlan\n")
    ended = job.run("Preview", preview="bad.yaml", preview_arguments="")

    assert ended.returncode == 2
    assert not (job.folder / "planrunner-preview.md").exists()


def _previewer(code: int) -> str:
    """A program in planrunner's place, since a real preview needs servers: it writes its --out and ends with a code."""
    return f"""#!/bin/bash
printf '%s\\n' "$@" > arguments
while [ "$1" != --out ]; do shift; done
echo "# Preview" > "$2"
exit {code}
"""


# In place of GitHub's own program: notes how it was called and tells the comments that there are.
GH = """#!/bin/bash
printf '%s\\n' "$*" >> calls
case "$*" in *--paginate*) cat comments ;; esac
"""


@pytest.mark.parametrize(
    ("comments", "call"),
    [
        ("", "--method POST repos/team/shop/issues/7/comments -F body=@planrunner-preview.md"),
        ("42\n43\n", "--method PATCH repos/team/shop/issues/comments/42 -F body=@planrunner-preview.md"),
    ],
)
def test_a_comment_is_made_once_and_then_replaced(comments: str, call: str, job: Job) -> None:
    program(job.folder, "gh", GH)
    (job.folder / "comments").write_text(comments)
    (job.folder / "planrunner-preview.md").write_text(
        "<!-- planrunner preview of plans/demo.yaml -->\n# Preview\n"
    )
    ended = job.run("Comment", token="token")

    assert ended.returncode == 0, ended.stderr
    listed, written = job.written("calls").splitlines()
    assert "repos/team/shop/issues/7/comments" in listed
    assert "startswith(env.MARK)" in listed
    assert call in written


def test_without_a_pull_request_there_is_no_comment(job: Job) -> None:
    ended = job.run("Comment", contexts={"github.event.pull_request.number": ""}, token="token")

    assert ended.returncode == 0
    assert "no comment" in ended.stdout


def test_the_hook_lints_the_files_that_it_is_given(job: Job) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert hook["id"] == "planrunner-lint"
    assert {"name", "entry", "language", "files"} <= hook.keys()
    files = [str(path.relative_to(job.folder)) for path in sorted((job.folder / "plans").glob("*.yaml"))]
    assert all(re.search(hook["files"], name) for name in files)
    assert not re.search(hook["files"], "tests/data/valid/small.yaml")

    ended = subprocess.run(
        [*shlex.split(hook["entry"]), *files],
        cwd=job.folder,
        env=job.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count(": ok") == len(files)


def test_the_recipes_can_be_parsed() -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", RECIPES, re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    for kind, text in blocks:
        if kind == "yaml":
            assert yaml.safe_load(text)
        else:
            assert kind == "python"
            ast.parse(text)
    assert kinds.count("yaml") >= 6
    assert "python" in kinds


def test_the_recipes_name_the_actions_inputs_and_the_hooks_id() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", RECIPES, re.DOTALL):
        recipe = yaml.safe_load(text)
        for held in recipe.get("jobs", {}).values() if isinstance(recipe.get("jobs"), dict) else ():
            for step in held["steps"]:
                if "/planrunner@" in step["uses"]:
                    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert "id: planrunner-lint" in RECIPES


def test_the_recipes_know_every_exit_code() -> None:
    codes = {
        e.exit_code
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, errors.PlanrunnerError)
    }
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", RECIPES, re.MULTILINE)}

    assert table == codes | {0, 10}


def test_the_recipes_use_verbs_that_there_are() -> None:
    verbs = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    used = set(re.findall(r"planrunner (lint|preview|run|approve|status|verify|rollback|cleanup)\b", RECIPES))

    assert {"lint", "run", "approve"} <= used <= verbs
