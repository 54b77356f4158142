"""The documentation as a site: it builds without a warning, needs nobody else's server, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
import yaml

from tests.pages import DOCS, ROOT, links

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        # No proxy leads anywhere: what would be fetched makes the build fail.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what a browser fetches to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.leads: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.leads.add(given["href"])
        elif tag in {"script", "img", "iframe", "link"} and given.get("rel") != "canonical":
            self.fetched |= {given[key] for key in ("src", "href") if given.get(key)}


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path) -> None:
    found = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 20
    broken = [
        f"{path.relative_to(site)}: {target}"
        for path, page in found.items()
        if path.name != "404.html"
        for target in page.leads
        if not re.match(r"[a-z]+:", target) and not _leads(found, path, unquote(target))
    ]
    assert broken == []


def _leads(found: dict[Path, Page], path: Path, target: str) -> bool:
    place, _, anchor = target.partition("#")
    there = (path.parent / place).resolve() if place else path
    if there.is_dir():
        there = there / "index.html"
    return there in found and (not anchor or anchor in found[there].anchors)


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    foreign = {
        target
        for path in site.rglob("*.html")
        for target in Page(path.read_text("utf-8")).fetched
        if re.match(r"(https?:)?//", target)
    }
    assert foreign == set()
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s*)['\"]?(?:https?:)?//[^)'\"]+", styles) == []


def test_every_page_is_in_the_navigation() -> None:
    def files(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        inner = entry.values() if isinstance(entry, dict) else entry
        assert not isinstance(inner, str)
        return set().union(*map(files, inner))  # type: ignore[call-overload]

    nav = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    # The list of the checks leads to each of theirs.
    listed = {f"reference/{target}" for target in links(DOCS / "reference/checks.md")}
    assert nav == {page for page in pages if not page.startswith("reference/checks/")}
    assert {page for page in pages if page.startswith("reference/checks/")} <= listed


def test_the_links_of_the_readme_lead_to_files_and_their_headings() -> None:
    for target in links(ROOT / "README.md"):
        place, _, anchor = target.partition("#")
        path = ROOT / place if place else ROOT / "README.md"
        assert path.exists(), target
        if anchor:
            assert anchor in _headings(path.read_text("utf-8")), target


def _headings(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
