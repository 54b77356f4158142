"""What a plan ignores: with its reason, for every step, and never in vain without a word."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from planrunner.engine.events import Event, EventKind
from planrunner.engine.preflight import Checked, judged_together
from planrunner.engine.preview_text import finding_text
from planrunner.engine.report import _warnings
from planrunner.ignoring import IN_VAIN, applied, finding_json, in_vain
from planrunner.model import Endpoint, Finding, Json, Mark, Plan, Side, StepSpec

REASON = "the certificate comes next week"


def plan(*ignored: str, uses: Sequence[str] = (), **options: Json) -> Plan:
    listed: list[Json] = [{"check": code, "reason": REASON} for code in ignored]
    check = StepSpec(id="check", uses="validate", options={"ignore": listed, **options})
    others = tuple(StepSpec(id=name, uses=name) for name in uses)
    return Plan(
        name="orders",
        path=Path("orders.yaml"),
        digest="",
        source=Endpoint(side=Side.SOURCE, dsn=""),
        target=Endpoint(side=Side.TARGET, dsn=""),
        steps=(check, *others),
    )


def found(code: str, mark: Mark = Mark.WARN) -> Finding:
    return Finding(section="Network", mark=mark, text=f"{code} was seen", code=code, remedy="Mend it.")


def test_what_is_ignored_keeps_its_mark_and_carries_the_reason() -> None:
    one, two, fine = applied([found("PR0203"), found("PR0206"), found("PR0203", Mark.PASS)], plan("PR0203"))
    assert (one.mark, one.ignored) == (Mark.WARN, REASON)
    assert two.ignored is None
    assert fine.ignored is None, "what passed needs no excuse"


def test_an_ignored_failure_is_not_open() -> None:
    (failure,) = applied([found("PR0203", Mark.FAIL)], plan("PR0203"))
    assert Checked(spec=plan().steps[0], findings=(failure,), mended=(None,)).open == ()


def test_an_ignored_finding_is_shown_with_the_reason_and_without_the_remedy() -> None:
    (ignored,) = applied([found("PR0203", Mark.FAIL)], plan("PR0203"))
    assert list(finding_text(ignored)) == ["○ PR0203 was seen [PR0203]", f"    ignored: {REASON}"]
    assert list(finding_text(found("PR0203"))) == [
        "! PR0203 was seen [PR0203]",
        "    Mend it.",
        "    see docs/reference/checks/PR0203.md",
    ]


def test_what_is_ignored_in_vain_is_a_warning() -> None:
    wish = plan("PR0203", "PR0206")
    results = {"validate": applied([found("PR0203"), found("PR0206", Mark.PASS)], wish)}
    (warning,) = in_vain(results, wish)
    assert (warning.code, warning.mark) == (IN_VAIN.code, Mark.WARN)
    assert "PR0206" in warning.text
    (strict,) = in_vain(results, plan("PR0203", "PR0206", warnings_fail=True))
    assert strict.mark is Mark.FAIL


def test_a_check_whose_step_was_not_asked_is_not_judged() -> None:
    wish = plan("PR1104", uses=["snapshot"])
    assert in_vain({"validate": ()}, wish) == ()
    assert len(in_vain({"validate": (), "snapshot": ()}, wish)) == 1
    assert len(in_vain({"validate": ()}, plan("PR1104"))) == 1, "no step of the plan makes it"


def test_nothing_is_judged_where_something_could_not_be_checked() -> None:
    for code in ("PR0001", "PR0201"):
        assert in_vain({"validate": (found(code, Mark.FAIL),)}, plan("PR0203")) == ()


def test_what_is_ignored_in_vain_stands_behind_all_other_findings() -> None:
    wish = plan("PR0203", uses=["snapshot"])
    spec, copy = wish.steps
    results = judged_together(
        [
            Checked(spec=spec, findings=(found("PR0206"),), mended=(None,)),
            Checked(spec=copy, findings=(found("PR1104"),), mended=(None,)),
        ],
        wish,
    )
    assert [f.code for result in results for f in result.findings] == ["PR0206", "PR1104", IN_VAIN.code]
    assert [f.code for f in results[-1].noted] == [IN_VAIN.code]


def test_the_report_names_the_check_and_the_reason() -> None:
    wish = plan("PR0203")
    fields = [finding_json(f) for f in applied([found("PR0203", Mark.FAIL), found("PR0206")], wish)]
    # As a run before the codes recorded it.
    fields.append({"section": "Network", "mark": "warn", "remedy": None, "mended_by": None})
    events = [
        Event(
            serial=n,
            at=datetime.now(UTC),
            kind=EventKind.FINDING,
            step="check",
            message=f"finding {n}",
            fields=given,
        )
        for n, given in enumerate(fields, 1)
    ]
    assert list(_warnings(events)) == [
        f"finding 1 [PR0203] (ignored: {REASON})",
        "finding 2 [PR0206]",
        "finding 3",
    ]
