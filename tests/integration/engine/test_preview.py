"""What a preview says, in its three forms."""

import json
from typing import Any

import pytest

from planrunner.engine import preview_json, preview_markdown, preview_text
from planrunner.engine.looking import live, looking_at, recorded, verify
from planrunner.engine.preview import Preview, preview
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import ConnectionFailed, UsageError
from planrunner.verification import VerifyTerms


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


# Names that a database may hold and that mean something to Markdown, HTML or a terminal.
EVIL = (
    "a|b",
    "`code` ``` more",
    "</details><script>alert(1)</script>",
    "[link](https://example.com) @everyone #1",
    "**bold** _it_ ~~no~~",
    "two\nlines\n## heading",
    "right\u202eleft\x1b[31m",
    "&lt;img src=x&gt;",
)


def rendered(text: str) -> str:
    """The Markdown as GitHub's parser, markdown-it with tables, makes HTML of it."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    return str(parser.render(text))


@pytest.mark.parametrize("name", EVIL)
def test_no_name_breaks_the_markdown(bench: Any, name: str) -> None:
    text = preview_markdown.to_markdown(
        previewed(bench, bench.touch("one", f"{name} one", "two", blocked=[]))
    )
    assert "\u202e" not in text
    assert "\x1b" not in text
    table = [line for line in text.splitlines() if line.startswith("| one |")]
    assert [line.count("|") for line in table] == [9]
    html = rendered(text)
    # The step, and what stays afterwards.
    assert html.count("<details>") == html.count("</details>") == 2
    assert not any(tag in html for tag in ("<script", "<a ", "<img", "<h3", "<strong>bold"))


def test_five_thousand_tables_with_long_names_fit_a_comment_and_say_what_is_left_out(bench: Any) -> None:
    names = [f"{'schema' * 9}.{'table' * 11}{number}" for number in range(5000)]
    text = preview_markdown.to_markdown(previewed(bench, bench.touch("one", *names), bench.touch("two", "a")))
    assert len(text) < 60_000
    assert "Left out for length: everything about one. See it with <code>planrunner preview" in text
    assert "| two | touch |" in text


def test_a_plan_of_many_steps_fits_a_comment(bench: Any) -> None:
    text = preview_markdown.to_markdown(
        previewed(bench, *(bench.touch(f"step-{n}-{'x' * 50}", f"f{n}") for n in range(150)))
    )
    assert len(text) < 60_000
    assert "… and 50 steps more" in text
