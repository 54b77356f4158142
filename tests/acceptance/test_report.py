"""The report of a real migration, looked at in a real browser: on a desk, on a phone, in the dark, on paper."""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.engine.report import to_html
from planrunner.sandbox.demo import Stage, stage
from tests import evidence
from tests.acceptance.helpers import run
from tests.browser import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser import Page

# One migration and one browser for all of them.
pytestmark = pytest.mark.xdist_group("report")
SECTIONS = ("servers", "pause", "verification", "sequences", "steps", "pace", "lag", "approvals", "way-back")
# What lies beyond the window's edge.
BEYOND = """
[...document.querySelectorAll("body *")]
  .filter(e => !e.closest("svg, .stack thead"))
  .filter(e => { const r = e.getBoundingClientRect(); return r.width && (r.right > innerWidth + 1 || r.left < -1) })
  .map(e => e.outerHTML.slice(0, 80))
"""
# Texts of a plot that lie over one another or outside of it.
CROWDED = """
[...document.querySelectorAll("figure svg[role=img]")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")].filter(t => t.textContent).map(t => t.getBoundingClientRect());
  const frame = svg.getBoundingClientRect();
  const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return boxes.filter((a, i) => boxes.some((b, j) => i < j && over(a, b)) || a.right > frame.right + 1);
}).length
"""
SEEN = """
id => {
  const box = document.getElementById(id)?.getBoundingClientRect();
  return !!box && box.width > 100 && box.height > 40 && getComputedStyle(document.getElementById(id)).display != "none"
}
"""
CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...["h1", "p.reason", "p.when", ".tiles dt", "td", "thead th", ".mark", "figcaption", "summary"]
    .map(s => light(getComputedStyle(document.querySelector(s)).color))
    .map(ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
})()
"""


@pytest.fixture(scope="module")
def moved() -> Iterator[Stage]:
    """A migration that was approved and run to its end, its servers still up."""
    with stage(None, None, scale=0.1) as scene:
        assert run(scene, "--no-input").returncode == 4
        assert run(scene, "cutover", "--because", "the shop is closed", verb="approve").returncode == 0
        ended = run(scene, "--no-input")
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr
        yield scene


@pytest.fixture(scope="module")
def demo(moved: Stage) -> Path:
    """The page of that migration."""
    return moved.folder / "demo.yaml.report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with page() as opened:
        yield opened


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, and names as long as PostgreSQL takes them."""
    long = f'{"w" * 63}."{"m" * 60}""x"'
    tables = [{"table": long, "rows": 10**12, "equal": n > 0, "detail": "d" * 200} for n in range(40)]
    known = evidence.state(
        verification={"tables": tables},
        decisions=["u" * 400],
        sequence_values=[{"sequence": long, "source": 2**62, "target": 2**63 - 1}],
    )
    path = tmp_path_factory.mktemp("full") / "full.html"
    path.write_text(to_html(evidence.report(known=known)))
    return path


@pytest.mark.parametrize("width", [320, 390, 817, 1280])
@pytest.mark.parametrize("which", ["demo", "full"])
def test_every_section_is_seen_and_nothing_overflows(
    which: str, width: int, browser: Page, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(which)
    browser.open(path, width=width)
    assert browser.tells("innerWidth") == width
    assert browser.tells("document.documentElement.scrollWidth") <= width
    assert browser.tells(BEYOND) == []
    assert browser.tells(CROWDED) == 0
    assert [name for name in SECTIONS if not browser.tells(f"({SEEN})('{name}')")] == []
    browser.screenshot(tmp_path / "page.png")
    assert struct.unpack(">I", (tmp_path / "page.png").read_bytes()[16:20]) == (width,)


def test_the_page_of_a_run_says_what_its_json_says(demo: Path, browser: Page) -> None:
    told = json.loads(demo.with_suffix(".json").read_text())
    assert told["verified"] is True
    assert told["throughput"]
    assert told["lag"]
    browser.open(demo, width=1280)
    assert browser.tells("document.querySelector('h1').innerText") == "Migrated: every row proven"
    shown = browser.tells("[...document.querySelectorAll('#verification tbody th')].map(e => e.innerText)")
    assert sorted(shown) == sorted(line["table"] for line in told["verification"])
    assert f"{told['rows']:,}" in browser.tells("document.querySelector('.tiles').innerText")
    assert "the shop is closed" in browser.tells("document.querySelector('#approvals').innerText")
    versions = browser.tells("document.querySelector('#servers').innerText")
    assert all(server["version"] in versions for server in told["servers"])
    commands = browser.tells("[...document.querySelectorAll('pre')].map(e => e.innerText)")
    assert commands == [way["command"] for way in told["way_back"]], "what is copied from the page must run"


def test_the_fence_is_lifted_by_the_command_on_the_page(moved: Stage, demo: Path) -> None:
    told = json.loads(demo.with_suffix(".json").read_text())
    (lift,) = [way["command"] for way in told["way_back"] if way["command"].startswith("DROP")]
    with psycopg.connect(moved.source_database.superuser_dsn, autocommit=True) as session:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute("UPDATE products SET price = price")
        session.execute(lift)
        assert session.execute("UPDATE products SET price = price").rowcount > 0


def test_the_page_asks_for_nothing_and_complains_of_nothing(full: Path, demo: Path, browser: Page) -> None:
    for path in (demo, full):
        browser.requests.clear()
        browser.open(path, width=1280)
        assert set(browser.requests) == {path.as_uri()}
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_readable_by_day_and_by_night(dark: bool, full: Path, browser: Page) -> None:
    browser.open(full, width=1280, dark=dark)
    paper = browser.tells("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 64) is dark
    assert browser.tells(CONTRAST) >= 4.5


def test_the_figures_of_a_plot_are_there_when_asked_for(full: Path, browser: Page) -> None:
    browser.open(full, width=390)
    rows = "document.querySelectorAll('#lag details tbody tr').length"
    assert browser.tells(rows) == len(evidence.report().lag)
    browser.tells("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.tells(BEYOND) == []


def test_the_page_is_printed_on_a_few_sheets(demo: Path, full: Path, browser: Page) -> None:
    browser.open(demo, width=1280)
    assert 2 <= sheets(browser.pdf()) <= 5
    browser.open(full, width=1280)
    assert 5 <= sheets(browser.pdf()) <= 12


def sheets(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))
