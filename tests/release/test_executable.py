"""The executable where no Python is: it lints, previews, migrates between real servers, and guards a paused pool."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planrunner import __version__
from planrunner.sandbox.demo import stage
from release.licences import LIBRARIES
from tests.acceptance.helpers import contents
from tests.acceptance.test_switch import bench, cut_over, followed, traffic
from tests.pages import ROOT
from tests.release.bare import Bare, add_client_programs, made

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the executable is Linux's")
CACHE = ".cache/planrunner"


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as `make executable` writes it; one that is given by PLANRUNNER_EXECUTABLE is tried instead."""
    if given := os.environ.get("PLANRUNNER_EXECUTABLE"):
        return Path(given)
    file = tmp_path_factory.mktemp("executable") / "planrunner"
    subprocess.run([sys.executable, "-m", "release.executable", file], cwd=ROOT, check=True, timeout=400)
    return file


@pytest.fixture(scope="module")
def bare(executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """A machine that has the executable, a plan, and neither Python nor PostgreSQL."""
    machine = made(tmp_path_factory.mktemp("bare"))
    machine.give(executable, "planrunner")
    machine.give(ROOT / "plans/demo.yaml", "demo.yaml")
    return machine


def call(
    bare: Bare, *words: str, code: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ended = bare.run("/home/planrunner", *words, environment=environment)
    assert ended.returncode == code, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended


def test_it_holds_every_service_that_is_called() -> None:
    spec = (ROOT / "release/planrunner.spec").read_text("utf-8")
    session = (ROOT / "planrunner/aws/session.py").read_text("utf-8")
    asked = {
        name
        for text in re.findall(r"service: Literal\[(.*?)\]", session)
        for name in re.findall(r'"(.*?)"', text)
    }
    (held,) = re.findall(r"^SERVICES = {(.*?)}", spec, re.MULTILINE)
    assert {"rds", "s3"} <= asked <= set(re.findall(r'"(.*?)"', held))


def test_whoever_starts_an_interpreter_knows_of_the_executable() -> None:
    """In it sys.executable is planrunner itself; the sandbox is not in it."""
    texts = {
        path: path.read_text("utf-8")
        for path in (ROOT / "planrunner").rglob("*.py")
        if "sandbox" not in path.parts
    }
    starting = {path: text for path, text in texts.items() if "sys.executable" in text}
    assert ROOT / "planrunner/shipped.py" in starting
    unaware = [
        path.name for path, text in starting.items() if not re.search(r'as_executable\(\)|"frozen"', text)
    ]
    assert unaware == [], "see planrunner/shipped.py"


def test_there_is_no_python(bare: Bare) -> None:
    there = [path for path in bare.root.rglob("*python*") if bare.home not in path.parents]
    assert there == []
    assert bare.run("/bin/sh", "-c", "python3").returncode == 127


def test_it_needs_no_newer_c_library_than_the_page_says(bare: Bare) -> None:
    call(bare, "--version")
    files = [path for path in (bare.home / CACHE).rglob("*") if path.is_file() and os.access(path, os.R_OK)]
    binaries = [data for path in files if (data := path.read_bytes()).startswith(b"\x7fELF")]
    needed = max(int(minor) for data in binaries for minor in re.findall(rb"\0GLIBC_2\.(\d+)\0", data))
    page = (ROOT / "docs/how-to/install.md").read_text("utf-8")
    (told,) = re.findall(r"glibc 2\.(\d+) or later", page)
    assert len(binaries) > 20
    assert needed <= int(told)


def test_every_library_in_it_is_on_the_page_of_licences(bare: Bare) -> None:
    call(bare, "--version")
    names = {path.name for path in (bare.home / CACHE).rglob("lib*.so*")}
    held = {
        match[1]
        for name in names
        if (match := re.match(r"(lib[a-z_]+\d*[a-z_]*?)(?:\.\d+)?(?:-[0-9a-f]{8})?\.so", name))
    }
    assert len(names) > 15
    # Which there are depends a little on the Python that it is built with.
    assert {"libpq", "libssl", "libpython3"} <= held <= LIBRARIES.keys()


def test_it_unpacks_itself_once(bare: Bare) -> None:
    call(bare, "--version")
    (unpacked,) = (bare.home / CACHE).iterdir()
    before = unpacked.stat().st_mtime_ns
    assert call(bare, "--version").stdout == f"planrunner {__version__}\n"
    assert [(path, path.stat().st_mtime_ns) for path in (bare.home / CACHE).iterdir()] == [(unpacked, before)]
    assert unpacked.stat().st_mode & 0o077 == 0


def test_it_lints_explains_and_previews_without_a_server(bare: Bare) -> None:
    assert "/home/demo.yaml: ok, 6 steps" in call(bare, "lint", "/home/demo.yaml").stdout
    assert "snapshot" in call(bare, "preview", "--offline", "/home/demo.yaml").stdout
    assert json.loads(call(bare, "schema").stdout) == json.loads(
        (ROOT / "schemas/plan.schema.json").read_text()
    )
    assert "# snapshot" in call(bare, "explain", "snapshot").stdout
    assert "PR0104" in call(bare, "explain", "checks").stdout
    (bare.home / "bad.yaml").write_text("kind: MigrationPlan\n")
    assert "error: the plan is invalid" in call(bare, "preview", "/home/bad.yaml", code=2).stderr
    offered = {"COMP_WORDS": "planrunner approve /home/demo.yaml c", "COMP_CWORD": "3"}
    offered["_PLANRUNNER_COMPLETE"] = "complete_bash"
    assert call(bare, environment=offered).stdout.split() == ["check", "copy", "cutover"]


def test_it_says_what_the_machine_lacks_and_never_that_pip_would_mend_it(bare: Bare) -> None:
    told = call(bare, "doctor", code=1).stdout
    assert "no pg_dump was found" in told
    assert "apt-get install postgresql-client-" in told
    assert "pip" not in told
    assert told.count("✗") == 1
    refused = call(bare, "demo", code=2).stderr
    assert "the demo is not in the executable" in refused


def test_what_it_starts_finds_the_libraries_of_the_machine(bare: Bare) -> None:
    folder = bare.home / "programs"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "$0 ${{LD_LIBRARY_PATH-none}}" >> /home/seen\necho "{name} (PostgreSQL) 18.4"\n'
        )
        program.chmod(0o755)
    call(bare, "doctor", environment={"PATH": "/bin:/home/programs"})
    call(bare, "doctor", environment={"PATH": "/bin:/home/programs", "LD_LIBRARY_PATH": "/home/mine"})
    seen = [line.split()[1] for line in (bare.home / "seen").read_text().splitlines()]
    assert set(seen) == {"none", "/home/mine"}


def test_a_folder_that_is_somebody_elses_is_not_used(bare: Bare, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of somebody else")
    foreign = bare.root / "foreign"
    foreign.mkdir()
    foreign.chmod(0o777)
    (bare.home / "linked").symlink_to("/tmp")
    for place in ("/foreign", "/home/linked"):
        assert call(bare, "--version", environment={"PLANRUNNER_CACHE": place}).stdout
    assert list(foreign.iterdir()) == []
    own = {"HOME": "/nowhere", "TMPDIR": "/home"}
    assert call(bare, "--version", environment=own).stdout
    assert (bare.home / "planrunner-65534").is_dir()
    refused = call(bare, "--version", code=1, environment={"HOME": "/nowhere", "TMPDIR": "/bin"}).stderr
    assert "no folder of your own was found" in refused
    assert "PLANRUNNER_CACHE" in refused


def test_half_a_file_says_so_and_leaves_nothing(bare: Bare, executable: Path) -> None:
    (bare.home / "half").write_bytes(executable.read_bytes()[:2_000_000])
    (bare.home / "half").chmod(0o755)
    ended = bare.run("/bin/sh", "/home/half", "--version", environment={"HOME": "/home/other"})
    assert ended.returncode == 1
    assert "error: planrunner could not be unpacked" in ended.stderr
    assert list((bare.home / "other" / CACHE).iterdir()) == []


@pytest.mark.server
def test_it_migrates_from_16_to_18_and_proves_it(bare: Bare) -> None:
    add_client_programs(bare)
    with stage(None, None, scale=0.2) as scene:
        names = ("AWS_", "SOURCE_PASSWORD", "TARGET_PASSWORD")
        given = {name: value for name, value in scene.environment().items() if name.startswith(names)}
        plan = bare.give(scene.plan, "shop.yaml")
        previewed = call(bare, "preview", plan, *scene.variables(), environment=given).stdout
        ran = call(bare, "run", plan, "--yes", *scene.variables(), environment=given)
        told = json.loads(
            call(bare, "status", plan, "--output", "json", *scene.variables(), environment=given).stdout
        )
        call(
            bare,
            "report",
            plan,
            "--format",
            "html",
            "--out",
            "/home/proof.html",
            *scene.variables(),
            environment=given,
        )
        arrived = contents(scene.target_database.superuser_dsn)
        assert arrived == contents(scene.source_database.superuser_dsn)
    assert re.search(r"^\d+ actions in 5 steps", previewed, re.MULTILINE)
    assert "verified: both sides are equal" in ran.stdout
    assert sum(rows for rows, _ in arrived.values()) > 20_000
    assert {step["status"] for step in told["steps"]} == {"done"}
    assert (bare.home / "proof.html").read_text().startswith("<!DOCTYPE html>")
    # It has the zones of the world with it.
    assert "unknown PostgreSQL timezone" not in ran.stderr


@pytest.mark.server
def test_a_kill_hits_the_run_itself_and_its_guardian_lets_the_clients_go(
    executable: Path, tmp_path: Path
) -> None:
    with traffic(tmp_path) as scene:
        scene.program = (str(executable),)
        followed(scene)
        with bench(scene, "simple") as client:
            for before in ("switch.paused", "cutover.before_commit"):
                cut_over(scene, failpoints=f"{before}:kill", code=-signal.SIGKILL)
                client.wait_for(50)
            cut_over(scene)
            client.wait_for(100)
        assert client.failed == 0, client.output
        assert scene.rows(scene.target) == client.acknowledged
