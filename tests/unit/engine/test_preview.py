"""What a preview says, in its three forms."""

import json
from typing import Any

import pytest

from planrunner.engine import preview_json, preview_markdown, preview_text
from planrunner.engine.looking import live, looking_at, recorded, verify
from planrunner.engine.preview import Preview, preview
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import ConnectionFailed, UsageError
from planrunner.model import VerifyTerms


def previewed(bench: Any, *steps: Any) -> Preview:
    setup = bench.setup(*steps)
    with looking_at(
        setup.plan, setup.store.load(), connect=setup.connect, clock=setup.clock, find=setup.find
    ) as view:
        return preview(view)


def test_a_preview_names_the_missing_actions_and_changes_nothing(bench: Any) -> None:
    found = previewed(bench, bench.touch("one", "a", "b"), bench.touch("two", "c"))
    assert [action.name for action in found.actions] == ["a", "b", "c"]
    assert found.changes
    assert bench.made() == {}
    assert bench.store.load() is None


def test_the_preview_shows_what_the_run_performs(bench: Any) -> None:
    steps = bench.touch("one", "a", "b"), bench.touch("two", "c")
    shown = [action.summary for action in previewed(bench, *steps).actions]
    run_plan(bench.setup(*steps), RunOptions())
    assert [e.message for e in bench.events if e.kind.value == "intent"] == shown


def test_finished_steps_are_shown_as_done_and_not_asked(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    run_plan(bench.setup(*steps), RunOptions(until="one"))
    (bench.files / "a").unlink()
    found = previewed(bench, *steps)
    assert [step.done for step in found.steps] == [True, False]
    assert [action.name for action in found.actions] == ["b"]


def test_text_tells_marks_menders_statements_and_questions(bench: Any, tiny: Any) -> None:
    text = preview_text.to_text(
        previewed(
            bench,
            bench.touch("one", "a", "b", ask=["a"], blocked=["b"], manual=True),
            bench.check("mendable", "a", mended_by="touch"),
            bench.check("open", "z"),
            tiny.spec("no", "refuse"),
        )
    )
    for expected in (
        "one (touch): waits for approval",
        "- do, local: create a [asks]",
        "touch a",
        "asks: really?",
        "- blocked, local: create b",
        "blocked: a person must do it",
        "✗ a is missing",
        "will be mended by step one",
        "✗ z is missing",
        "touch z",
        "no (refuse): problem",
        "Say yes.",
        "2 problems",
    ):
        assert expected in text


def test_json_holds_every_action(bench: Any) -> None:
    tree = json.loads(preview_json.to_json(previewed(bench, bench.touch("one", "a", ask=["a"]))))
    action = tree["steps"][0]["actions"][0]
    assert (action["name"], action["verdict"], action["statements"]) == ("a", "do", ["touch a"])
    assert tree["changes"] is True


def test_markdown_summarises_first_and_folds_the_details(bench: Any) -> None:
    text = preview_markdown.to_markdown(previewed(bench, bench.touch("one", "a")))
    assert text.index("1 actions in 1 steps") < text.index("| one | touch |") < text.index("<details>")
    assert "touch a" in text


@pytest.mark.parametrize("count", [40, 4000])
def test_markdown_always_fits_a_comment(bench: Any, count: int) -> None:
    long = [bench.touch(f"s{n}", *(f"f{n}-{i}-{'x' * 90}" for i in range(count // 20))) for n in range(20)]
    text = preview_markdown.to_markdown(previewed(bench, *long))
    assert len(text) < 60_000
    assert text.count("<details>") == text.count("</details>")
    assert "| s19 | touch |" in text


def test_a_server_that_is_away_is_a_clear_error(bench: Any) -> None:
    bench.target = "host=127.0.0.1 port=1 user=postgres dbname=new sslmode=disable"
    with pytest.raises(ConnectionFailed, match="target") as refused:
        previewed(bench, bench.touch("one", "a"))
    assert refused.value.remedy


def test_status_shows_drift_of_finished_steps(bench: Any) -> None:
    setup = bench.setup(bench.touch("one", "a"), bench.touch("two", "b"))
    run_plan(setup, RunOptions(until="one"))
    (bench.files / "a").unlink()
    state = setup.store.load()
    with looking_at(setup.plan, state, connect=setup.connect, clock=setup.clock, find=setup.find) as view:
        one, two = live(view, recorded(setup.plan, state, running=False), drift=True)
    assert [action.name for action in one.drift] == ["a"]
    assert (two.status, two.drift) == ("pending", ())


def test_verify_asks_the_step_that_can(bench: Any, tiny: Any) -> None:
    setup = bench.setup(bench.touch("one", "a"), tiny.spec("proof", "refuse"))
    with looking_at(setup.plan, None, connect=setup.connect, clock=setup.clock, find=setup.find) as view:
        spec, found = verify(view, VerifyTerms())
    assert (spec.id, found.equal) == ("proof", False)
    setup = bench.setup(bench.touch("one", "a"))
    with (
        looking_at(setup.plan, None, connect=setup.connect, clock=setup.clock, find=setup.find) as view,
        pytest.raises(UsageError),
    ):
        verify(view, VerifyTerms())


def test_estimates_are_told_in_every_form(bench: Any, tiny: Any) -> None:
    found = previewed(bench, tiny.spec("copy", "guess"))
    told = "copy time: 1 s to 3 s", "data / rate", "target free: not measured (nobody knows)"
    for text in (preview_text.to_text(found), preview_markdown.to_markdown(found)):
        assert all(words in text for words in told)
    time, free = json.loads(preview_json.to_json(found))["steps"][0]["estimates"]
    assert (time["low"], time["high"], time["unit"], time["formula"]) == (1.0, 2.5, "s", "data / rate")
    assert (free["low"], free["reason"]) == (None, "nobody knows")


def test_what_can_not_be_estimated_costs_no_preview(bench: Any, tiny: Any) -> None:
    text = preview_text.to_text(previewed(bench, tiny.spec("copy", "guess", fail=True)))
    assert "estimates: not measured (the ruler broke)" in text


def test_only_a_preview_asks_for_estimates(bench: Any, tiny: Any) -> None:
    log = bench.files / "asked"
    step = tiny.spec("copy", "guess", log=str(log))
    run_plan(bench.setup(step), RunOptions())
    assert not log.exists()
