"""Where the values of variables come from, and which one wins."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from planrunner.errors import PlanInvalid, UsageError
from planrunner.loading import load
from planrunner.loading.source import parse
from planrunner.loading.variables import Given, resolve

WritePlan: TypeAlias = Callable[..., Path]


def host_of(path: Path, **given: object) -> str:
    dsn = load(path, **given).source.dsn  # type: ignore[arg-type]  # the test passes load's own keywords
    return dsn.partition("@")[2].partition("/")[0]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("host: from-first\nport: 1\n")
    second.write_text("host: from-second\n")
    return first, second


def test_command_line_wins_over_file_over_environment_over_default(
    write_plan: WritePlan, files: tuple[Path, Path]
) -> None:
    path, environ = write_plan(), {"PLANRUNNER_VAR_host": "from-environ", "PLANRUNNER_VAR_port": "2"}

    assert host_of(path) == "old.example.com:5432"
    assert host_of(path, environ=environ) == "from-environ:2"
    assert host_of(path, environ=environ, var_files=files[:1]) == "from-first:1"
    assert host_of(path, environ=environ, var_files=files) == "from-second:1"
    assert (
        host_of(path, environ=environ, var_files=files, variables={"host": "from-option"}) == "from-option:1"
    )


def test_other_variables_of_the_environment_do_not_matter(write_plan: WritePlan) -> None:
    environ = {"PLANRUNNER_VAR_other_plan": "x", "host": "x", "PLANRUNNER_VAR_": "x"}

    assert host_of(write_plan(), environ=environ) == "old.example.com:5432"


def test_given_value_spares_a_required_variable_its_default(write_plan: WritePlan) -> None:
    path = write_plan(("{type: integer, default: 5432}", "{type: integer}"))

    assert host_of(path, variables={"port": "77"}) == "old.example.com:77"
    with pytest.raises(PlanInvalid, match="has no value"):
        load(path)


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ("integer", "-7", -7),
        ("integer", "007", 7),
        ("number", "1.5", 1.5),
        ("number", "2", 2),
        ("boolean", "true", True),
        ("string", "true", "true"),
        ("string", "", ""),
        ("string", "{{ vars.host }}", "{{ vars.host }}"),
    ],
)
def test_text_from_outside_is_read_as_the_declared_type(declared: str, text: str, value: object) -> None:
    document = parse("plan.yaml", f"vars: {{given: {{type: {declared}}}}}")

    found = resolve(document, Given(variables={"given": text}, var_files=(), environ={}))

    assert found.problems == ()
    assert found.values == {"given": value}
    assert type(found.values["given"]) is type(value)


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ("integer", "1.5"),
        ("integer", ""),
        ("integer", " 1"),
        ("integer", "0x10"),
        ("integer", "٣"),
        ("number", "1e999"),
        ("number", "nan"),
        ("boolean", "True"),
        ("boolean", "1"),
        ("string", "a\0b"),
        ("string", "\udcff"),
        ("string", "x" * 20_000),
    ],
)
def test_text_of_another_type_is_refused(declared: str, text: str, write_plan: WritePlan) -> None:
    path = write_plan(("vars:\n", f"vars:\n  given: {{type: {declared}}}\n"))

    with pytest.raises(PlanInvalid) as caught:
        load(path, variables={"given": text})
    (problem,) = caught.value.problems
    assert problem.where == "vars.given"
    assert problem.message.startswith("--var: ")


def test_value_must_be_a_choice_and_match_the_whole_pattern(write_plan: WritePlan) -> None:
    path = write_plan(
        ("vars:\n", "vars:\n  zone: {default: a, enum: [a, b]}\n  region: {default: ab, pattern: '[a-z]+'}\n")
    )

    load(path, variables={"zone": "b", "region": "xyz"})
    with pytest.raises(PlanInvalid) as caught:
        load(path, variables={"zone": "c", "region": "xyz1"})
    assert [p.where for p in caught.value.problems] == ["vars.zone", "vars.region"]


def test_problems_of_a_variable_file_name_that_file(write_plan: WritePlan, tmp_path: Path) -> None:
    file = tmp_path / "prod.yaml"
    file.write_text('hots: x\nport: "1"\nport: 2\n')

    with pytest.raises(PlanInvalid) as caught:
        load(write_plan(), var_files=[file])

    assert {(p.path, p.line) for p in caught.value.problems} == {(str(file), n) for n in (1, 2, 3)}


def test_the_value_of_what_nobody_declares_is_not_shown(write_plan: WritePlan, tmp_path: Path) -> None:
    file = tmp_path / "prod.yaml"
    file.write_text("pasword: hunter2--password=x\n")

    with pytest.raises(PlanInvalid) as caught:
        load(write_plan(), var_files=[file])

    (problem,) = caught.value.problems
    assert "pasword" in str(problem)
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("text", ["", "- a\n", "text", "host: [a]\n", "host: {{ a }}\n", "host: !t a\n"])
def test_variable_file_of_another_shape_is_refused(text: str, write_plan: WritePlan, tmp_path: Path) -> None:
    file = tmp_path / "prod.yaml"
    file.write_text(text)

    with pytest.raises(PlanInvalid) as caught:
        load(write_plan(), var_files=[file])
    assert {p.path for p in caught.value.problems} == {str(file)}


def test_missing_variable_file_is_a_usage_error(write_plan: WritePlan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(write_plan(), var_files=[tmp_path / "none.yaml"])


PRECEDENCE = [
    # --var, the later --var-file, the earlier, the environment, the overlay's default: what the plan's host is.
    ("var", "later", "earlier", "environ", "overlay", "var"),
    (None, "later", "earlier", "environ", "overlay", "later"),
    (None, None, "earlier", "environ", "overlay", "earlier"),
    (None, None, None, "environ", "overlay", "environ"),
    (None, None, None, None, "overlay", "overlay"),
    (None, None, None, None, None, "old.example.com"),
    ("var", None, None, None, None, "var"),
    ("var", None, None, "environ", None, "var"),
    (None, "later", None, "environ", None, "later"),
    (None, None, "earlier", None, "overlay", "earlier"),
    ("", "later", None, None, None, ""),
]


@pytest.mark.parametrize("case", PRECEDENCE)
def test_the_first_that_gives_a_value_wins(
    case: tuple[str | None, ...], write_plan: WritePlan, tmp_path: Path
) -> None:
    var, later, earlier, environ, overlay, host = case
    path = write_plan()
    if overlay is not None:
        path = tmp_path / "overlay.yaml"
        path.write_text(f"extends: plan.yaml\nvars: {{host: {{default: {overlay}}}}}\n")
    files = [tmp_path / "earlier.yaml", tmp_path / "later.yaml"]
    for file, value in zip(files, (earlier, later), strict=True):
        file.write_text("port: 5432\n" + (f"host: {value}\n" if value else ""))

    found = host_of(
        path,
        variables={} if var is None else {"host": var},
        var_files=files,
        environ={} if environ is None else {"PLANRUNNER_VAR_host": environ},
    )

    assert found == f"{host}:5432"


def test_unknown_names_are_told_with_the_nearest(write_plan: WritePlan, tmp_path: Path) -> None:
    file = tmp_path / "prod.yaml"
    file.write_text("prot: 1\n")

    with pytest.raises(PlanInvalid) as caught:
        load(write_plan(), variables={"hots": "x"}, var_files=[file])

    remedies = [problem.remedy or "" for problem in caught.value.problems]
    assert [remedy.partition("?")[0] for remedy in remedies] == ['Did you mean "host"', 'Did you mean "port"']
