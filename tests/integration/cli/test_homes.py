"""Where --state leads."""

from pathlib import Path

import pytest

from planrunner.cli.homes import home_of, is_remote
from planrunner.errors import UsageError
from planrunner.model import Endpoint, Plan, Side
from planrunner.state.file import FileStore

PLAN = Plan(
    name="orders",
    path=Path("plans/orders.yaml"),
    digest="d",
    source=Endpoint(side=Side.SOURCE, dsn="host=old"),
    target=Endpoint(side=Side.TARGET, dsn="host=new"),
    steps=(),
)
FILE = Path("orders.yaml.state.json")


@pytest.mark.parametrize("state", [None, "elsewhere/x.json", "./target"])
def test_a_path_is_a_file(state: str | None) -> None:
    assert not is_remote(state)
    assert isinstance(home_of(PLAN, state, FILE), FileStore)


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ("s3://b/k/orders.json", "s3://b/k/orders.json"),
        ("s3://b/k/", "s3://b/k/orders.yaml.state.json"),
        ("s3://b", "s3://b/orders.yaml.state.json"),
        ("target", "target (table planrunner.state, orders)"),
        ("postgresql://h/d", "postgresql://h/d (table planrunner.state, orders)"),
    ],
)
def test_a_url_is_a_place_that_others_reach(state: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert is_remote(state)
    assert home_of(PLAN, state, FILE).place == place


@pytest.mark.parametrize("state", ["gs://b/k", "s3:///k"])
def test_what_leads_nowhere_is_refused(state: str) -> None:
    with pytest.raises(UsageError):
        home_of(PLAN, state, FILE)


@pytest.mark.parametrize("state", ["postgresql://u:hunter2@h/d", "postgresql://h/d?password=hunter2"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(state: str) -> None:
    with pytest.raises(UsageError) as refused:
        home_of(PLAN, state, FILE)
    assert "hunter2" not in str(refused.value)
