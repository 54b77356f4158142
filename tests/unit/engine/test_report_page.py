"""The page and the Markdown: whole, self-contained, and harmless whatever the names in them are."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from markdown_it import MarkdownIt

from planrunner.engine.events import Event, EventKind
from planrunner.engine.files import run_files
from planrunner.engine.report import to_html, to_json, to_markdown, write_report
from planrunner.engine.report_json import digest
from planrunner.state.file import FileStore
from planrunner.state.record import ApprovalRecord
from tests import evidence

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = (
    "</bdi></td><script>alert(1)</script>",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "two\nlines\r\n\r\n# a heading\n\n<b>",
    "\u202egnirts desrever\u202c \u2066isolate",
    "[click](http://evil.example) ![x](http://evil.example/p.png) <http://evil.example> https://evil.example",
    "`code` | pipe || **bold** _it_ ~~gone~~ &lt;script&gt; \\",
    "1. list\n- item\n+ item\n> quote\n```\nfence",
    "{{ 7*7 }}{% raw %}%s{0}",
    "\x00\x07\x1b[31m",
    "ada@example.com www.evil.example",
    "-->]]><!-- <style>*{display:none}</style>",
)
VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})
# What a browser would fetch, run or follow.
ACTIVE = frozenset(
    {"script", "img", "link", "iframe", "object", "embed", "form", "video", "audio", "image", "use"}
)


class Outline(HTMLParser):
    """Reads a page strictly: every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert len({name for name, _ in attrs}) == len(attrs), "an attribute stands twice"
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def hostile_report(text: str, *events: Event) -> Any:
    """The whole migration with that text wherever one comes from outside."""
    known = evidence.state(
        verification={
            "tables": [
                {"table": text, "rows": 1, "equal": True, "how": text},
                {"table": "b", "source_rows": 1, "target_rows": 2, "equal": False, "detail": text},
            ]
        },
        proofs=[{"name": text, "equal": False, "text": text, "detail": [text]}],
        sequence_values=[{"sequence": text, "source": 1, "target": 2}],
        reverse={"stream": text, text: text, "lag_bytes": 1},
        switch=[{"name": text, "phase": text, "seconds": 1}],
        decisions=[text],
        pause={"total_ms": 5, "parts_ms": {text: 3, "commit": 1}},
    )
    server = dict.fromkeys(
        ("version", "host", "port", "database", "user", "sslmode", "system_identifier"), text
    )
    approval = ApprovalRecord(step=text, action=text, digest="d", who=text, when=evidence.START, why=text)
    failed = replace(known.steps["follow"], error=text)
    known = replace(
        known.with_step("follow", failed),
        facts={"source": text, "servers": {"source": server}},
        approvals=(approval,),
        lineage=text,
        plan_digest=text,
    )
    warning = Event(serial=99, at=evidence.START, kind=EventKind.WARNING, step="copy", message=text)
    made = evidence.report(known=known, told=[*evidence.events(), warning, *events])
    return made if events else replace(made, plan=text)


def test_the_page_is_whole_and_tells_every_section() -> None:
    outline = Outline(to_html(evidence.report()))
    assert {
        *("servers", "pause", "proofs", "verification", "sequences", "decisions", "steps", "pace", "lag"),
        *("rehearsals", "switch", "approvals", "way-back"),
    } <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    words = outline.words()
    for told in (
        "Migrated: every row proven",
        "PostgreSQL 15.20",
        "new.example.com:5432",
        "both sides compared 90 ms",
        "public.part_11 1,000,011 1,000,011 equal digest while it followed, unchanged since",
        "public.orders_id_seq 1,204,331 1,204,431 100",
        "owners holds the same of 44 relations",
        "lag noted 20 MB it falls",
        "public.lines_id_seq -20 -120 100",
        "ada@ops-1 2026-11-27 09:00:00 UTC the quiet hour; change 4711",
        "planrunner rollback plans/orders.yaml --var=region=eu-west-1",
        "DROP FUNCTION planrunner.fence_00aa11bb() CASCADE;",
        "serial 41 of lineage 7c0f2e3a-0000-4000-8000-000000000001",
        "the slot keeps much WAL",
    ):
        assert told in words


def test_the_page_needs_nothing_but_itself() -> None:
    page = to_html(evidence.report())
    outline = Outline(page)
    assert not ACTIVE & set(outline.tags)
    links = [
        value for _, name, value in outline.attributes if name in {"href", "src", "xlink:href", "srcset"}
    ]
    assert links
    assert all(link.startswith("#") and link[1:] in outline.ids for link in links)
    assert not re.search(r"url\(|@import|https?://", page)
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]


def test_every_picture_is_told_in_words() -> None:
    page = to_html(evidence.report())
    outline = Outline(page)
    named = [value for tag, name, value in outline.attributes if tag == "svg" and name == "aria-labelledby"]
    assert len(named) == 4
    assert all(part in outline.ids for value in named for part in value.split())
    assert page.count("<summary>The figures of this plot</summary>") == 2
    assert "200 MB of WAL behind at most" in outline.words()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_on_the_page(text: str) -> None:
    outline = Outline(to_html(hostile_report(text)))
    plain = Outline(to_html(hostile_report("plain")))
    assert outline.tags == plain.tags, "a text became an element"
    names = [(tag, name) for tag, name, _ in outline.attributes]
    assert names == [(tag, name) for tag, name, _ in plain.attributes], "a text became an attribute"
    shown = "".join(outline.text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_in_markdown(text: str) -> None:
    kinds = (
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "code_inline",
        "strong_open",
        "em_open",
        "s_open",
    )
    blocks = (
        "heading_open",
        "blockquote_open",
        "tr_open",
        "th_open",
        "td_open",
        "fence",
        "ordered_list_open",
    )
    found = Tokens(to_markdown(hostile_report(text)))
    plain = Tokens(to_markdown(hostile_report("plain")))
    assert found.count(*kinds) == plain.count(*kinds)
    assert found.count(*blocks) == plain.count(*blocks)
    assert found.count("list_item_open", "hr") == plain.count("list_item_open", "hr")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", found.source)
    # What GitHub would make a link or a mention of by itself.
    assert not re.search(r"https?:|www\.|\w@\w", found.source)


def test_what_markdown_shows_is_what_was_said() -> None:
    text = "public.a|b *c* _d_ `e` <f> [g](h) e_f 1.5 -5 ada@x https://i.example &lt; \\"
    made = evidence.report(known=evidence.state(decisions=[text]))
    assert text in Tokens(to_markdown(made)).texts()


class Tokens:
    """Markdown as GitHub reads it: tables, strikethrough, raw HTML and bare links."""

    def __init__(self, source: str) -> None:
        self.source = source
        reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        tokens = reader.parse(source)
        self.flat = [*tokens, *(child for token in tokens for child in token.children or ())]

    def count(self, *kinds: str) -> list[int]:
        return [sum(token.type == kind for token in self.flat) for kind in kinds]

    def texts(self) -> list[str]:
        return [
            "".join(child.content for child in token.children or ())
            for token in self.flat
            if token.type == "inline"
        ]


CANARY = "canary-hunter2"
LEAKS = (
    f"cannot connect to postgresql://migrator:{CANARY}@old.example.com/app",
    f"connection with host=x password={CANARY} failed",
    f"ALTER ROLE app PASSWORD '{CANARY}'",
    f'told {{"password": "{CANARY}"}}',
    f"https://rds/?Action=connect&X-Amz-Signature={CANARY}&X-Amz-Credential={CANARY}",
)


@pytest.mark.parametrize("leak", LEAKS)
def test_no_secret_reaches_any_form_of_the_report(leak: str) -> None:
    fields = {"password": CANARY, "dsn": leak, "lag_bytes": 1, "retained_bytes": CANARY}
    stray = Event(serial=98, at=evidence.START, kind=EventKind.NEWS, step=None, message=leak, fields=fields)
    made = hostile_report(leak, stray)
    for form in (to_html(made), to_markdown(made), to_json(made)):
        assert CANARY not in form
        assert "***" in form.replace("\\", "")


def test_the_page_names_the_digest_of_its_json(tmp_path: Path) -> None:
    plan = evidence.plan(tmp_path)
    files = run_files(plan.path)
    FileStore(files.state).save(evidence.state())
    made = write_report(plan, files)
    assert made is not None
    assert digest(made) in files.report_html.read_text()
    assert digest(made) in files.report_markdown.read_text()
    assert hashlib.sha256(files.report_json.read_bytes()).hexdigest() == digest(made)
    before = files.report_json.read_bytes()
    write_report(plan, files)
    assert files.report_json.read_bytes() == before, "the same evidence gives the same bytes"


def test_what_nobody_told_is_left_out_and_nothing_is_invented() -> None:
    nothing = dict.fromkeys(evidence.cutover())
    made = evidence.report(known=evidence.state(**nothing), told=[])
    outline = Outline(to_html(made))
    assert not {"pause", "proofs", "verification", "sequences", "pace", "lag", "rehearsals"} & set(
        outline.ids
    )
    assert "Done, without a proof" in outline.words()
    assert "## Verification" not in to_markdown(made)
    told = json.loads(to_json(made))
    assert told["pause"] is None
    assert told["verified"] is None
    assert told["throughput"] == []


ODD: tuple[Any, ...] = (
    None,
    True,
    7,
    -1.5,
    "text",
    [],
    {},
    [1, None, "x"],
    [{}],
    {"a": {}},
    [[]],
    {"total_ms": "1"},
)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_figures_of_another_shape_are_passed_over(odd: Any) -> None:
    names = (
        "pause",
        "rehearsals",
        "verification",
        "proofs",
        "sequence_values",
        "sequences",
        "reverse",
        "switch",
    )
    told = dict.fromkeys((*names, "rolled_back", "decisions", "rows", "tables"), odd)
    events = [
        Event(
            serial=1,
            at=evidence.START,
            kind=EventKind.NEWS,
            step="copy",
            message="x",
            fields=dict.fromkeys(
                ("lag_bytes", "retained_bytes", "moved_bytes", "seconds", "units", "bytes"), odd
            ),
        )
    ]
    made = evidence.report(known=evidence.state(**told), told=events)
    assert made.verified is not True
    Outline(to_html(made))
    to_markdown(made)
    to_json(made)
