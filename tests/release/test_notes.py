"""Release notes out of fragments."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FRAGMENTS = {
    "+fleet.added.md": "Many plans at once.",
    "7.fixed.md": "A pause that was told twice is told once.",
    "+gone.breaking.md": "`--old` is gone; write `--new`.",
}


def towncrier(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "towncrier", "build", *words, "--version", "0.2.0", "--date", "2027-01-01"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def test_the_fragments_of_now_make_release_notes(repository: Path) -> None:
    ended = towncrier(repository, "--draft")
    assert ended.returncode == 0, ended.stderr
    texts = [
        path.read_text("utf-8") for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"
    ]
    shown = " ".join(ended.stdout.split())
    assert all(" ".join(text.split()) in shown for text in texts)


def test_every_fragment_is_of_a_kind_that_there_is() -> None:
    kinds = set(
        re.findall(r'^directory = "(\w+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    )
    assert kinds == {"breaking", "added", "changed", "fixed", "security"}
    for path in (ROOT / "changelog.d").iterdir():
        assert path.name == "README.md" or path.name.split(".")[-2] in kinds, path.name


def test_a_release_puts_them_above_what_was_and_takes_them_away(repository: Path) -> None:
    before = (repository / "CHANGELOG.md").read_text("utf-8")
    for name, text in FRAGMENTS.items():
        (repository / "changelog.d" / name).write_text(text)
    ended = towncrier(repository, "--yes")
    assert ended.returncode == 0, ended.stderr
    after = (repository / "CHANGELOG.md").read_text("utf-8")
    head, _, old = before.partition("\n## 0.1.0")
    assert after.startswith(f"{head}\n## 0.2.0 (2027-01-01)\n")
    new, _, rest = after.partition("\n## 0.1.0")
    assert rest == old
    assert new.index("What you have to change") < new.index("### New") < new.index("### Mended")
    assert all(text in new for text in FRAGMENTS.values())
    assert not [path for path in (repository / "changelog.d").iterdir() if path.name in FRAGMENTS]
