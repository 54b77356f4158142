"""What the journal tells over time, and the geometry of its plots."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from planrunner.engine import report_plots, report_series
from planrunner.engine.events import EventKind
from planrunner.engine.report_axis import WIDTH, Axis
from planrunner.engine.report_figures import pause
from planrunner.engine.report_model import Pause
from tests.evidence import MB, Diary, after, events, report


def test_an_attempt_whose_runner_was_killed_ends_with_its_run() -> None:
    found = report_series.attempts(events(), running=False)
    killed, whole = found["copy"]
    assert (killed.ending, killed.ended) == ("killed", after(seconds=145))
    assert (whole.ending, whole.began, whole.ended) == ("done", after(seconds=201), after(seconds=405))
    assert [attempt.ending for attempt in found["cutover"]] == ["waiting", "done"]


def test_an_attempt_of_a_run_at_work_has_no_end() -> None:
    diary = Diary()
    diary.add(EventKind.RUN_STARTED, after())
    diary.add(EventKind.STEP_STARTED, after(seconds=1), "copy")
    (attempt,) = report_series.attempts(diary.events, running=True)["copy"]
    assert (attempt.ending, attempt.ended) == ("running", None)


def test_the_pace_is_what_was_moved_between_samples() -> None:
    rates = report_series.throughput(events())
    assert len(rates) == 32
    assert rates[0].bytes_per_second == 30 * MB
    assert rates[0].began == after(seconds=25)


def test_a_short_copy_tells_its_pace_by_finished_units() -> None:
    diary = Diary()
    diary.add(EventKind.INTENT, after(seconds=10), "copy")
    for place in range(1, 11):
        diary.add(EventKind.NEWS, after(seconds=10 + place / 10), "copy", units=["a", "b"], rows=5, bytes=MB)
    rates = report_series.throughput(diary.events)
    moved = sum(rate.bytes_per_second * (rate.ended - rate.began).total_seconds() for rate in rates)
    assert round(moved / MB, 3) == 10
    assert (rates[0].began, rates[-1].ended) == (after(seconds=10), after(seconds=11))
    plot = report_plots.pace(rates)
    assert plot is not None
    assert "A unit counts when it is finished" in plot.description


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500, 40_000])
def test_a_long_run_is_thinned_and_its_worst_moment_kept(count: int) -> None:
    diary = Diary()
    for place in range(count):
        behind = 10**9 if place == count // 3 else place
        diary.add(EventKind.NEWS, after(seconds=10 * place), moved_bytes=MB, seconds=10.0, lag_bytes=behind)
    lag, rates = report_series.lag(diary.events), report_series.throughput(diary.events)
    assert 400 < len(lag) <= 1000
    assert 400 < len(rates) <= 1000
    assert max(sample.lag_bytes for sample in lag) == 10**9
    assert {round(rate.bytes_per_second) for rate in rates} == {round(MB / 10)}


def test_days_of_waiting_take_little_room_on_the_axis() -> None:
    spans = [(after(), after(seconds=60)), (after(days=3), after(days=3, seconds=30))]
    axis = Axis(spans)
    assert [gap.told for gap in axis.breaks] == ["3.0 days without work"]
    places = [axis.place(at) for span in spans for at in span]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == WIDTH
    assert places[1] - places[0] == pytest.approx(2 * (places[3] - places[2]), rel=0.01)


def test_many_waits_leave_room_for_the_work() -> None:
    spans = [(after(days=n), after(days=n, seconds=5)) for n in range(200)]
    axis = Axis(spans)
    assert len(axis.breaks) <= 12
    places = [axis.place(began) for began, _ in spans]
    assert places == sorted(places)


def test_moments_alone_have_a_place() -> None:
    axis = Axis([(after(), after())])
    assert 0 <= axis.place(after()) <= WIDTH
    assert axis.place(after(days=-1)) == 0
    assert axis.place(after(days=1)) == WIDTH


def test_every_point_of_a_plot_lies_within_its_box() -> None:
    made = report()
    for plot in (report_plots.pace(made.throughput), report_plots.lag(made.lag)):
        assert plot is not None
        for curve in plot.curves:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", curve.path)]
            assert numbers
            assert all(0 <= number <= WIDTH for number in numbers)
            assert "nan" not in curve.path


def test_lines_are_broken_where_nobody_looked() -> None:
    plot = report_plots.lag(report().lag)
    assert plot is not None
    assert plot.curves[0].path.count("M") == 2


def test_the_parts_of_a_pause_fill_its_bar_in_their_order() -> None:
    told = pause(
        {
            "total_ms": 100,
            "parts_ms": {"commit": 1, "new part": 4, "verification": 60, "fence": 20, "barrier": 5},
        }
    )
    assert told is not None
    segments = report_plots.stacked(told)
    assert [segment.label for segment in segments] == [
        *("locks and fence", "last changes arrive", "both sides compared", "new part", "commit", "in between")
    ]
    assert sum(segment.width for segment in segments) == pytest.approx(100)
    assert segments[-1].value == "10 ms"


def test_parts_that_exceed_the_total_still_fit_the_bar() -> None:
    segments = report_plots.stacked(Pause(total_ms=10, parts_ms={"fence": 8, "commit": 8}))
    assert [segment.width for segment in segments] == [50, 50]


def test_the_timeline_has_a_row_for_every_step_and_a_bar_for_every_attempt() -> None:
    made = report_plots.timeline(report().steps)
    assert made is not None
    assert {step.id: len(spans) for step, spans in made.rows} == {
        **dict.fromkeys(("logical", "grant", "check", "follow"), 1),
        **dict.fromkeys(("copy", "cutover"), 2),
    }
    assert all(0 <= s.x <= s.x + s.width <= WIDTH for _, spans in made.rows for s in spans)
    assert timedelta(0) < made.rows[3][0].runs[0].ended - made.rows[3][0].runs[0].began  # type: ignore[operator]
