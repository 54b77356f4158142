"""The page about a fleet: self-contained, every text escaped, each member's own report a link away."""

from __future__ import annotations

from datetime import UTC, datetime

from planrunner.engine import markdown_safe
from planrunner.fleet.report import FleetReport, MemberLine, as_json, to_html, to_markdown
from planrunner.fleet.standing import MemberView, Standing

DONE = MemberView(
    name="shop-1",
    wave="one",
    standing=Standing.DONE,
    steps_done=2,
    steps=2,
    rows=1200,
    bytes=4096,
    attempts=1,
)
FAILED = MemberView(
    name="shop-2",
    wave="<b>",
    standing=Standing.FAILED,
    steps_done=1,
    steps=2,
    step="copy",
    told="no <key> | at all\nAdd one.",
)
REPORT = FleetReport(
    fleet="<script>",
    at=datetime(2026, 11, 24, tzinfo=UTC),
    lines=(MemberLine(view=DONE, page="shops.fleet/shop-1.report.html"), MemberLine(view=FAILED, page=None)),
    notes=("edited <since>",),
)


def test_the_page_holds_no_markup_of_others_and_needs_nothing_else() -> None:
    page = to_html(REPORT)

    assert "<script>" not in page
    assert "<b>" not in page
    assert "no &lt;key&gt; | at all\nAdd one." in page
    assert '<a href="shops.fleet/shop-1.report.html">' in page
    assert "src=" not in page
    assert "2 members: 1 failed, 1 done; 1,200 rows, 4 kB copied." in page


def test_markdown_has_a_line_a_member() -> None:
    text = to_markdown(REPORT, markdown_safe.text)

    assert "[shop-1](shops.fleet/shop-1.report.html)" in text
    assert "no &#60;key&#62; &#124; at all" in text
    assert "<b>" not in text


def test_programs_get_the_same() -> None:
    tree = as_json(REPORT)

    assert tree["counts"] == {"failed": 1, "done": 1}
    assert tree["members"][0]["report"] == "shops.fleet/shop-1.report.html"  # type: ignore[index,call-overload]
