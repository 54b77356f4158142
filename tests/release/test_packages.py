"""The wheel and the sdist: what they hold, and that what pip, pipx and uv make of them works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from planrunner.registry import step_names
from release.components import locked
from tests.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

UV = (sys.executable, "-m", "uv", "--quiet", "--no-config")


def call(*words: str | Path, environment: dict[str, str] | None = None, timeout: float = 180) -> str:
    """What a command says that has to end well; nothing of this checkout is on its way."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    ended = subprocess.run(
        [str(word) for word in words],
        cwd="/",
        env={**kept, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def works(planrunner: Path) -> None:
    """It comes from its own environment, and finds what lies beside its modules."""
    assert call(planrunner, "--version").startswith("planrunner ")
    assert "demo.yaml: ok" in call(planrunner, "lint", ROOT / "plans/demo.yaml")
    assert "# Migration plan" in call(
        planrunner, "preview", "--offline", "--format", "markdown", ROOT / "plans/demo.yaml"
    )
    assert "PR0104" in call(planrunner, "explain", "checks")
    schema = json.loads(call(planrunner, "schema"))
    assert schema == json.loads((ROOT / "schemas/plan.schema.json").read_text("utf-8"))
    shared = planrunner.resolve().parents[1] / "share"
    assert (shared / "man/man1/planrunner.1").exists()
    assert (shared / "bash-completion/completions/planrunner").exists()


def test_the_wheel_holds_what_the_commands_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"planrunner/steps/{name}.schema.json" for name in step_names()} <= names
    assert {"planrunner/engine/report.html.j2", "planrunner/engine/report.css"} <= names
    assert {"planrunner/sandbox/demo.yaml", "planrunner/sandbox/shop.sql"} <= names
    assert any(name.endswith(".dist-info/sboms/sbom.cdx.json") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"planrunner"}
    assert not [name for name in names if "tests/" in name or "__pycache__" in name]


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "planrunner"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert len(tracked) > 400
    assert set(tracked) <= set(zipfile.ZipFile(wheel).namelist())


def test_the_sdist_holds_what_the_tests_and_the_release_need(dist: Path) -> None:
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/conftest.py", "docs/index.md", "release/executable.py", "Dockerfile", "Makefile"} <= names
    assert {"locks/runtime.txt", "constraints.txt", "CHANGELOG.md", "plans/demo.yaml"} <= names
    assert not [name for name in names if name.startswith((".git/", ".servers", "build", "dist", ".venv"))]


@pytest.mark.server
def test_pip_installs_what_the_lock_names_and_nothing_else_and_it_migrates(
    wheel: Path, tmp_path: Path
) -> None:
    python = tmp_path / "venv/bin/python"
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    call(*pip, "--require-hashes", "-r", ROOT / "locks/runtime.txt")
    call(*pip, "--no-deps", wheel)
    call(python, "-m", "pip", "check")
    works(python.with_name("planrunner"))
    refused = subprocess.run(
        [python.with_name("planrunner"), "demo"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2, refused.stderr
    assert "pip install 'planrunner[sandbox]'" in refused.stderr

    call(*UV, "pip", "install", "--python", python, "--require-hashes", "-r", ROOT / "locks/sandbox.txt")
    told = json.loads(call(python.with_name("planrunner"), "demo", "--output", "json", "--scale", "0.05"))
    assert (told["result"], told["verified"], told["lost_writes"]) == ("migrated", True, 0)


def test_pip_refuses_a_file_that_is_not_the_locked_one(tmp_path: Path) -> None:
    named = next(package for package in locked(ROOT / "locks/runtime.txt") if package.name == "attrs")
    (tmp_path / "lock.txt").write_text(f"attrs=={named.version} --hash=sha256:{'0' * 64}\n")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"),
            "-r",
            tmp_path / "lock.txt",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "DO NOT MATCH THE HASHES" in ended.stderr


def test_pipx_installs_it(wheel: Path, tmp_path: Path) -> None:
    home = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    home["PIPX_MAN_DIR"] = str(tmp_path / "man")
    pins = f"-c {ROOT / 'constraints.txt'}"
    call(sys.executable, "-m", "pipx", "install", "--pip-args", pins, wheel, environment=home)
    works(tmp_path / "bin/planrunner")
    assert (tmp_path / "man/man1/planrunner.1").exists()


def test_uv_installs_it_as_a_tool(wheel: Path, tmp_path: Path) -> None:
    home = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    pins = ["--constraints", ROOT / "constraints.txt", "--python", sys.executable]
    call(*UV, "tool", "install", *pins, wheel, environment=home)
    works(tmp_path / "bin/planrunner")
