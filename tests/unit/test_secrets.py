"""Secret references, resolved."""

import json
import sys
import time
from pathlib import Path

import pytest

from planrunner.errors import SecretUnavailable
from planrunner.model import Endpoint, RdsInstance, SecretKind, SecretRef, Side
from planrunner.secrets import SecretResolver

HUSH = "hunter2"


def resolved(kind: SecretKind, locator: str, *, key: str | None = None, **environ: str) -> str:
    resolver = SecretResolver(environ, command_seconds=2)
    return resolver.resolve_ref(SecretRef(kind=kind, locator=locator, key=key)).reveal()


def refusal(kind: SecretKind, locator: str, *, key: str | None = None, **environ: str) -> SecretUnavailable:
    with pytest.raises(SecretUnavailable) as caught:
        resolved(kind, locator, key=key, **environ)
    error = caught.value
    assert (
        HUSH not in f"{error} {error.__cause__} {error.__context__ if not error.__suppress_context__ else ''}"
    )
    assert error.remedy
    return error


def test_environment_variable() -> None:
    assert resolved(SecretKind.ENV, "PW", PW=f" {HUSH}\n") == f" {HUSH}\n"
    assert "env:PW is not set" in str(refusal(SecretKind.ENV, "PW", OTHER=HUSH))
    assert "env:PW is empty" in str(refusal(SecretKind.ENV, "PW", PW=""))


@pytest.mark.parametrize(
    ("content", "value"), [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" é ", " é ")]
)
def test_file_loses_one_line_end(content: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_bytes(content.encode())

    assert resolved(SecretKind.FILE, str(file)) == value


def test_unusable_file(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    assert "No such file" in str(refusal(SecretKind.FILE, str(file)))
    assert "Is a directory" in str(refusal(SecretKind.FILE, str(tmp_path)))
    for content, message in (
        (b"\n", "is empty"),
        (b"\xff" + HUSH.encode(), "not UTF-8"),
        (b"a\0b", "zero byte"),
    ):
        file.write_bytes(content)
        assert message in str(refusal(SecretKind.FILE, str(file)))
    assert "too large" in str(refusal(SecretKind.FILE, "/dev/zero"))


def test_command_prints_the_secret_without_a_shell() -> None:
    assert resolved(SecretKind.COMMAND, f"printf '%s\\n' '{HUSH} $HOME'") == f"{HUSH} $HOME"


def test_command_gets_the_environment_it_is_given() -> None:
    code = "import os; print(os.environ['A'], 'HOME' in os.environ)"

    assert resolved(SecretKind.COMMAND, f'{sys.executable} -c "{code}"', A="x") == "x False"


def test_failing_command_is_told_without_its_output(capfd: pytest.CaptureFixture[str]) -> None:
    code = f"import sys; print('{HUSH}'); print('{HUSH}', file=sys.stderr); sys.exit(3)"
    file_like = f'{sys.executable} -c "{code}"'

    with pytest.raises(SecretUnavailable, match="ended with exit code 3") as caught:
        resolved(SecretKind.COMMAND, file_like)

    assert HUSH not in (caught.value.remedy or "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("locator", ["planrunner-no-such-command x", "'open quote", "", "/"])
def test_command_that_can_not_start(locator: str) -> None:
    assert "could not be started" in str(refusal(SecretKind.COMMAND, locator))


def test_slow_command_and_its_children_are_ended() -> None:
    begun = time.monotonic()

    error = refusal(SecretKind.COMMAND, "sh -c 'sleep 60 & sleep 60'")

    assert "not answered within 2 s" in str(error)
    assert time.monotonic() - begun < 10


def test_command_that_prints_without_end_is_ended() -> None:
    begun = time.monotonic()

    assert "printed too much" in str(refusal(SecretKind.COMMAND, "yes"))
    assert time.monotonic() - begun < 10


def test_command_that_lets_go_of_its_output_and_stays_is_ended() -> None:
    assert "not answered" in str(refusal(SecretKind.COMMAND, "sh -c 'echo x; exec sleep 60 >&-'"))


def test_command_may_print_as_much_as_a_file_may_hold() -> None:
    code = "print('x' * 60000)"

    assert resolved(SecretKind.COMMAND, f'{sys.executable} -c "{code}"') == "x" * 60_000


def test_key_picks_a_member_of_a_json_secret() -> None:
    text = json.dumps({"password": HUSH, "port": 5432})

    assert resolved(SecretKind.ENV, "PW", key="password", PW=text) == HUSH
    assert "no text under port" in str(refusal(SecretKind.ENV, "PW", key="port", PW=text))
    assert "no text under user" in str(refusal(SecretKind.ENV, "PW", key="user", PW=text))
    assert "no JSON object" in str(refusal(SecretKind.ENV, "PW", key="user", PW=HUSH))
    assert "no JSON object" in str(refusal(SecretKind.ENV, "PW", key="user", PW="[" * 100_000))


def test_endpoint_without_password_has_none() -> None:
    assert SecretResolver({}).resolve(Endpoint(side=Side.SOURCE, dsn="dbname=a")) is None


def test_endpoint_with_a_reference_is_resolved() -> None:
    ref = SecretRef(kind=SecretKind.ENV, locator="PW")

    secret = SecretResolver({"PW": HUSH}).resolve(Endpoint(side=Side.SOURCE, dsn="dbname=a", password=ref))

    assert secret is not None
    assert (secret.reveal(), str(secret)) == (HUSH, "***")


@pytest.mark.parametrize(
    ("dsn", "rds", "region"),
    [
        ("postgresql://me@db.abc.eu-west-3.rds.amazonaws.com:6543/a", None, "eu-west-3"),
        ("host=db port=6543 user=me dbname=a", RdsInstance(instance="db", region="us-west-2"), "us-west-2"),
    ],
)
def test_iam_login_signs_a_token_for_host_port_and_user(
    dsn: str, rds: RdsInstance | None, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")

    secret = SecretResolver({}).resolve(Endpoint(side=Side.SOURCE, dsn=dsn, rds_iam=True, rds=rds))

    assert secret is not None
    assert secret.reveal().startswith("db")
    assert ":6543/?Action=connect&DBUser=me" in secret.reveal()
    assert f"%2F{region}%2Frds-db" in secret.reveal()


def test_iam_login_needs_host_and_user() -> None:
    with pytest.raises(SecretUnavailable, match="host and the user"):
        SecretResolver({}).resolve(Endpoint(side=Side.TARGET, dsn="dbname=a", rds_iam=True))
