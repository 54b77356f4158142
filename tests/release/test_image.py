"""The image's recipe, as far as it can be tried where no container engine is."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import ROOT

RECIPE = (ROOT / "Dockerfile").read_text("utf-8")
# Without comments, each instruction a line.
LINES = [
    line
    for line in re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line
]
FINAL = LINES[max(n for n, line in enumerate(LINES) if line.startswith("FROM")) :]


def copied() -> set[str]:
    words = [shlex.split(line)[1:] for line in LINES if line.startswith("COPY") and "--from" not in line]
    return {source for line in words for source in line[:-1]}


def test_hadolint_has_nothing_against_the_recipe() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    told = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_what_is_copied_is_there_and_is_sent_to_the_engine() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, name) or source.startswith(f"{name}/") for name in sent), source


def test_what_the_wheel_is_built_from_is_copied() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in ("README.md", "sbom.cdx.json", "plans/demo.yaml", "share"):
        assert f'"{name}"' in project
        assert name in copied()
    assert {"pyproject.toml", "LICENSE", "planrunner", "locks/runtime.txt"} <= copied()


def test_the_image_is_small_pinned_and_without_rights() -> None:
    bases = [line.split()[1] for line in LINES if line.startswith("FROM")]
    assert set(bases) == {"python:${PYTHON}"}
    assert re.search(r"^ARG PYTHON=3\.\d+-slim-\w+$", RECIPE, re.MULTILINE)
    assert [line for line in FINAL if line.startswith("USER")] == ["USER 10001:10001"]
    assert 'ENTRYPOINT ["planrunner"]' in FINAL
    # Packages come by the locks alone, and what built them stays behind.
    installs = [part for line in LINES for part in line.split("&&") if "pip install" in part]
    assert installs
    assert all("--require-hashes" in part or "--no-deps" in part for part in installs)
    assert not [line for line in FINAL if re.match(r"COPY (?!--from=build /opt/planrunner )", line)]
    (run,) = (line for line in FINAL if line.startswith("RUN"))
    assert "--no-install-recommends" in run
    assert "rm -rf /var/lib/apt/lists/*" in run
    assert "postgresql-client-18" in run
