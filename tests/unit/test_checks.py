"""The checks: each has a code of its own, says why it matters, has a page, and is what findings are made of."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import planrunner
from planrunner.catalogue import Listed, checks, listed
from planrunner.check_pages import CODES, FOLDER, INDEX, page, pages
from planrunner.ignoring import maker
from planrunner.model import Mark

ROOT = Path(__file__).parents[2]
PACKAGE = Path(planrunner.__file__).parent
EVERY = pytest.mark.parametrize("entry", listed(), ids=lambda entry: f"{entry.check.code}-{entry.name}")
SECTIONS = {
    "PR00": {"Preflight"},
    "PR01": {"Local Environment"},
    "PR02": {"Network Connectivity"},
    "PR03": {"Source Permissions"},
    "PR04": {"Target Permissions"},
    "PR05": {"Capacity"},
    "PR06": {"Schema"},
    "PR07": {"Data"},
    "PR08": {"Network from the Target"},
    "PR09": {"Way Back"},
    "PR10": {"AWS", "Network Connectivity"},
    "PR11": {"Filters"},
    "PR12": {"Following"},
    "PR13": {"Traffic"},
    "PR14": {"SerenAI"},
    "PR15": {"Following"},
    "PR16": {"Replica"},
}
# Modules whose findings still come from a section alone.
NOT_YET: set[str] = set()


def test_the_catalogue_finds_checks_where_they_lie() -> None:
    assert checks()["PR0201"].module == "planrunner.postgres.preflight_network"
    assert checks()["PR1201"].module == "planrunner.steps.sync"
    assert len(listed()) > 50


def test_no_code_is_used_twice() -> None:
    counted = Counter(entry.check.code for entry in listed())
    assert [code for code, count in counted.items() if count > 1] == []


@EVERY
def test_a_check_says_what_holds_and_why_it_matters(entry: Listed) -> None:
    check = entry.check
    assert re.fullmatch(r"PR\d{4}", check.code)
    assert check.section.title in SECTIONS[check.code[:4]]
    assert re.fullmatch(r"\S.{1,118}\S", check.title), "a title is one line"
    assert re.fullmatch(r"\S.*[.)]", check.why), "a sentence ends with a full stop"
    assert len(check.why.split()) > 5, "why it matters, for somebody who meets it for the first time"
    assert not check.never_ignored.endswith("."), "it stands inside a sentence"


@EVERY
def test_a_check_may_come_to_something_and_its_page_says_what(entry: Listed) -> None:
    assert entry.marks
    assert Mark.PASS not in entry.marks
    text = page(entry)
    assert f"# {entry.check.code}: {entry.check.title}\n" in text
    assert entry.check.why in text
    assert ("can't ignore it" in text) == bool(entry.check.never_ignored)
    assert "{key}" not in text


def test_marks_and_fixes_are_read_from_the_code() -> None:
    known = checks()
    assert known["PR0104"].marks == {Mark.WARN}
    assert known["PR0104"].fixes
    assert known["PR0201"].marks == {Mark.FAIL}
    assert not known["PR0201"].fixes
    assert known["PR1103"].marks == {Mark.WARN, Mark.FAIL}
    assert known["PR0802"].marks == {Mark.WARN}, "handed on before it is used, so it says so itself"


def made(tree: ast.AST) -> set[str]:
    """How a module makes findings without a check: by hand, or of a section."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "Finding":
            found.add("Finding(")
        elif (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in {"passed", "warned", "failed"}
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in CONSTANTS
        ):
            found.add(node.func.value.id)
    return found


# The names of the sections in the module that holds them.
CONSTANTS = {
    target.id
    for node in ast.parse((PACKAGE / "postgres/preflight_section.py").read_text()).body
    if isinstance(node, ast.Assign)
    and isinstance(node.value, ast.Call)
    and ast.unparse(node.value.func) == "Section"
    for target in node.targets
    if isinstance(target, ast.Name)
}


def test_no_finding_is_without_a_code() -> None:
    assert "SCHEMA" in CONSTANTS
    modules = [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "linting" not in path.parts and path.stem != "preflight_section"
    ]
    without = {path.stem for path in modules if made(ast.parse(path.read_text("utf-8")))}
    assert without <= NOT_YET, "make them of a Check: preflight_section.py"


@EVERY
def test_the_step_that_makes_a_check_follows_from_its_code(entry: Listed) -> None:
    makers = {
        "planrunner.steps.sync": "sync",
        "planrunner.replication.filter_checks": "snapshot",
        "planrunner.postgres.preflight_back": "cutover_verify",
        "planrunner.cloud_checks": "snapshot",
        "planrunner.cloud_target": "snapshot",
    }
    switching = "cutover_verify" if entry.module.startswith("planrunner.switching") else "validate"
    by_code = {"PR1203": "sync", "PR0921": "cutover_verify", "PR1404": "cutover_verify", "PR1405": "validate"}
    expected = by_code.get(entry.check.code, makers.get(entry.module, switching))
    assert maker(entry.check.code) == expected


def test_the_pages_are_up_to_date() -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.md")}
    fresh = pages()
    assert there == set(fresh) - {INDEX, CODES}, "run `make docs`"
    stale = [name for name, text in fresh.items() if (ROOT / name).read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_every_code_that_is_written_anywhere_is_a_check() -> None:
    known = checks()
    sources = [path for path in PACKAGE.rglob("*.py") if "sandbox" not in path.parts]
    written = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"PR\d{4}", node.value)
    }
    assert "PR0001" in written
    told = {
        code
        for path in (ROOT / "docs").rglob("*.md")
        for code in re.findall(r"\bPR\d{4}\b", path.read_text("utf-8"))
    }
    assert (written | told) - set(known) == set()
