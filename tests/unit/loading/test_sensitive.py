"""Sensitive variables: where their values may come from and stand, and that nothing about them is told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from planrunner.engine.fit import parts_of
from planrunner.errors import PlanInvalid, SecretUnavailable
from planrunner.loading import load
from planrunner.loading.sensitive import refusal
from planrunner.masking import HIDDEN, hushed, speak
from planrunner.model import Plan, Secret, SecretRef

WritePlan: TypeAlias = Callable[..., Path]

VALUE = "hunter2-hunter2"
FROM_ENVIRON = {"PLANRUNNER_VAR_token": VALUE}


@pytest.fixture(autouse=True)
def others_are_not_hushed() -> Iterator[None]:
    speak()
    yield
    speak()


@pytest.fixture
def sensitive(write_plan: WritePlan) -> Callable[..., Path]:
    """The small plan with a sensitive variable ``token``, declared and used as the test says."""

    def write(declared: str = "", *changes: tuple[str, str]) -> Path:
        return write_plan(("vars:\n", f"vars:\n  token: {{sensitive: true{declared}}}\n"), *changes)

    return write


USER = ("postgresql://migrator@", "postgresql://{{ vars.token }}@")


def filtered(text: str) -> tuple[str, str]:
    return ("{jobs: 8}", '{jobs: 8, filters: {rows: {public.orders: "' + text + '"}}}')


def complaint(path: Path, **given: Any) -> PlanInvalid:
    with pytest.raises(PlanInvalid) as caught:
        load(path, **given)
    assert "hunter" not in str(caught.value)
    return caught.value


def test_values_come_from_the_environment_a_file_or_a_reference(
    sensitive: Callable[..., Path], tmp_path: Path
) -> None:
    path, file = sensitive("", USER), tmp_path / "prod.yaml"

    assert load(path, environ=FROM_ENVIRON).source.dsn.startswith(f"postgresql://{VALUE}@")
    file.write_text(f"token: {VALUE}-file\n")
    assert VALUE + "-file@" in load(path, var_files=[file], environ=FROM_ENVIRON).source.dsn
    file.write_text("token: {secret: {env: TOKEN}}\n")
    asked: list[SecretRef] = []

    def resolve(ref: SecretRef) -> Secret:
        asked.append(ref)
        return Secret(VALUE + "-kept")

    assert VALUE + "-kept@" in load(path, var_files=[file], resolve=resolve).source.dsn
    assert [str(ref) for ref in asked] == ["env:TOKEN"]


def test_reference_of_the_declaration_is_the_weakest(sensitive: Callable[..., Path]) -> None:
    path = sensitive(", secret: {file: ./token}", USER)
    asked: list[SecretRef] = []

    def resolve(ref: SecretRef) -> Secret:
        asked.append(ref)
        return Secret(VALUE)

    load(path, environ=FROM_ENVIRON, resolve=resolve)
    assert asked == []
    load(path, resolve=resolve)
    assert [ref.locator for ref in asked] == [str((path.parent / "token").resolve())]


def test_file_of_a_reference_lies_beside_the_variable_file(
    sensitive: Callable[..., Path], tmp_path: Path
) -> None:
    path, file = sensitive("", USER), tmp_path / "deep" / "prod.yaml"
    file.parent.mkdir()
    file.write_text("token: {secret: {file: ./token}}\n")
    asked: list[SecretRef] = []

    def resolve(ref: SecretRef) -> Secret:
        asked.append(ref)
        return Secret(VALUE)

    load(path, var_files=[file], resolve=resolve)
    assert asked[0].locator == str((tmp_path / "deep" / "token").resolve())


def test_nothing_is_looked_up_unless_it_is_asked_for(sensitive: Callable[..., Path]) -> None:
    plan = load(sensitive(", secret: {command: [no-such-command]}", USER))

    assert plan.source.dsn.startswith(f"postgresql://{HIDDEN}@")


def test_what_can_not_be_looked_up_is_an_error_that_names_the_reference(
    sensitive: Callable[..., Path],
) -> None:
    def resolve(ref: SecretRef) -> Secret:
        raise SecretUnavailable(f"{ref} is not set")

    with pytest.raises(SecretUnavailable, match="env:TOKEN is not set"):
        load(sensitive(", secret: {env: TOKEN}", USER), resolve=resolve)


def test_command_line_is_refused(sensitive: Callable[..., Path]) -> None:
    error = complaint(sensitive("", USER), variables={"token": VALUE})

    (problem, *_) = error.problems
    assert "shell's history" in problem.message
    assert "PLANRUNNER_VAR_token" in (problem.remedy or "")


@pytest.mark.parametrize(
    ("declared", "where", "message"),
    [
        (", default: hunter2-hunter2", "vars.token.default", "for all to read"),
        (", enum: [hunter2-hunter2]", "vars.token.enum", "for all to read"),
        (", type: integer", "vars.token.type", "is a text"),
        (", secret: {env: A, file: b}", "vars.token.secret", "exactly one of"),
        (", secret: {file: ../token}", "vars.token.secret.file", "not in the plan's folder"),
        (", secret: hunter2-hunter2", "vars.token.secret", "expected mapping"),
    ],
)
def test_declaration_that_would_show_the_value_is_refused(
    declared: str, where: str, message: str, sensitive: Callable[..., Path]
) -> None:
    problems = complaint(sensitive(declared)).problems

    assert any(p.where == where and message in p.message for p in problems), problems


def test_only_sensitive_variables_are_kept_elsewhere(write_plan: WritePlan, tmp_path: Path) -> None:
    path = write_plan(("{type: string, default: old.example.com}", "{secret: {env: A}}"))
    assert complaint(path).problems[0].remedy == "Add sensitive: true."

    file = tmp_path / "prod.yaml"
    file.write_text("host: {secret: {env: A}}\n")
    assert "sensitive: true" in (complaint(write_plan(), var_files=[file]).problems[0].remedy or "")


@pytest.mark.parametrize(
    "text",
    [
        "short",
        "1234567",
        "1.5e100",
        "null",
        "{secret: {env: A, file: b}}",
        "{secret: {file: ../a}}",
        "{}",
        "[a]",
    ],
)
def test_value_that_can_not_be_masked_or_followed_is_refused(
    text: str, sensitive: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "prod.yaml"
    file.write_text(f"token: {text}\n")

    problems = complaint(sensitive("", USER), var_files=[file]).problems

    assert {p.path for p in problems} == {str(file)}
    assert all(p.excerpt is None for p in problems)


def test_value_that_does_not_match_is_told_without_it(sensitive: Callable[..., Path], tmp_path: Path) -> None:
    path, file = sensitive(", pattern: '[A-Z]+'", USER), tmp_path / "prod.yaml"
    file.write_text(f"token: {VALUE}\ntoken: {VALUE}\n- {VALUE}\n")

    assert f"{HIDDEN} does not match" in str(complaint(path, environ=FROM_ENVIRON))
    assert complaint(path, var_files=[file])
    kept = sensitive(", pattern: '[A-Z]+', secret: {env: A}", USER)
    assert f"{HIDDEN} does not match" in str(complaint(kept, resolve=lambda _: Secret(VALUE)))


def test_an_option_that_does_not_fit_is_told_without_it(sensitive: Callable[..., Path]) -> None:
    path = sensitive("", ("jobs: 8", 'jobs: "{{ vars.token }}", owners: "a-{{ vars.token }}-z"'))

    problems = complaint(path, environ=FROM_ENVIRON).problems

    assert {p.where for p in problems} == {"steps[1].with.jobs", "steps[1].with.owners"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: orders", 'name: "{{ vars.token }}"'), "shown everywhere"),
        (("approval: manual", 'approval: "{{ vars.token }}"'), "can't stand here"),
        (filtered("{{ vars.token | upper }}"), "part of an expression"),
        (filtered("{{ 'a' if vars.token == 'b' else 'c' }}"), "part of an expression"),
        (filtered("{{ vars.token ~ 'x' }}"), "part of an expression"),
        (("@{{ vars.host }}:{{ vars.port }}/app", "@old/{{ vars.token }}"), "name can't be sensitive"),
        (
            ("postgresql://migrator@{{ vars.host }}:{{ vars.port }}/app", "'{{ vars.token }}'"),
            "name can't be sensitive",
        ),
        (
            (
                "approval: manual}",
                'with: {switch: [{command: {after_commit: [echo, "{{ vars.token }}"], on_rollback: ["true"]}}]}}',
            ),
            "every process can read it",
        ),
    ],
)
def test_value_stands_only_where_it_stays_hidden(
    change: tuple[str, str], message: str, sensitive: Callable[..., Path]
) -> None:
    path = sensitive("", change)

    assert message in str(complaint(path, environ={"PLANRUNNER_VAR_token": "dbname=hunter2 host=h"}))


def test_neither_digest_nor_record_tells_the_value_from_another(sensitive: Callable[..., Path]) -> None:
    path = sensitive(", secret: {env: A}", USER, filtered("tenant = '{{ vars.token }}'"))

    def loaded(value: str) -> Plan:
        return load(path, environ={"PLANRUNNER_VAR_token": value})

    one, other, none = loaded(VALUE), loaded("swordfish"), load(path)
    assert one.steps[1].options != other.steps[1].options
    for plan in (other, none):
        assert plan.digest == one.digest
        assert [s.digest for s in plan.steps] == [s.digest for s in one.steps]
        assert [parts_of(s) for s in plan.steps] == [parts_of(s) for s in one.steps]


def test_a_plan_without_sensitive_variables_keeps_its_digest(write_plan: WritePlan) -> None:
    assert load(write_plan()).digest == "7b348834bb73b07a7749256f1c8c31e73f88bed350ab2f4b101fef79c04d8b68"


def test_loading_hushes_the_value_in_every_form(sensitive: Callable[..., Path]) -> None:
    value = 'o\'hara "ä"/%41|<x>'
    load(
        sensitive("", ("postgresql://migrator@", "postgresql://{{ vars.token }}@")),
        environ={"PLANRUNNER_VAR_token": "quite%40secret"},
    )
    load(sensitive("", filtered("{{ vars.token }}")), environ={"PLANRUNNER_VAR_token": value})

    for form in (
        "quite%40secret",
        "quite@secret",
        value,
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
    ):
        assert not {"quite", "hara"} & set(hushed(form).replace('"', "").split())
        assert HIDDEN in hushed(form)
    assert hushed("u = 'o''hara \"ä\"/%41|<x>'") == f"u = '{HIDDEN}'"


def test_value_may_be_given_to_a_hook_by_its_environment() -> None:
    assert refusal(("steps", 0, "before", 0, "env", "TOKEN")) is None
    assert refusal(("steps", 0, "before", 0, "command", 1)) is not None
    assert refusal(("notifications", 0, "command", 1)) is not None
    assert refusal(("notifications", 0, "webhook", "url")) is None
    assert refusal(("steps", 0, "retries", "wait")) is not None


def test_value_decides_no_condition(sensitive: Callable[..., Path]) -> None:
    path = sensitive("", ("uses: validate}", "uses: validate, when: 'vars . token == \"a\"'}"))

    assert "can't decide whether a step runs" in str(complaint(path, environ=FROM_ENVIRON))
