"""Whatever stands in the file, it is a plan or it is told what is wrong with it."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planrunner.errors import PlanInvalid
from planrunner.loading import load

DATA = Path(__file__).parents[2] / "data"
PLAN = (DATA / "valid" / "small.yaml").read_text("utf-8")
SEEDS = [*(path.read_bytes() for path in sorted(DATA.glob("*/*.yaml")))]
PIECES = [
    *(
        b"{{ vars.host }}",
        b"{{ vars.",
        b"{%",
        b"{#",
        b"}}",
        b"<<: *a",
        b"&a ",
        b"*a",
        b"!!int ",
        b"---\n",
        b"...\n",
    ),
    *(
        b'"',
        b"'",
        b"\\",
        b"\t",
        b"\n",
        b"\r",
        b": ",
        b"- ",
        b"? ",
        b"|\n",
        b">-\n",
        b"[",
        b"]",
        b"{",
        b"}",
        b"#",
        b"%",
    ),
    *(
        b"\0",
        b"\x1b",
        b"\xff",
        b"\xf0\x9f\x92\xbe",
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b'"\\UFFFFFFFF"',
        b"\xe2\x80\xa8",
    ),
    *(
        b"1e999",
        b".nan",
        b"0x",
        b"0o9",
        b"9" * 5000,
        b"null",
        b"true",
        b"no",
        b"22:00",
        b"postgresql://u:p@h/d?x=%",
    ),
]


def assert_plan_or_problems(path: Path) -> None:
    """Anything else that is raised fails the test by itself."""
    try:
        found: object = load(path, variables={"host": "a"}, environ={"PLANRUNNER_VAR_port": "1"})
    except PlanInvalid as error:
        found = "\n".join(problem.render() for problem in error.problems)
    assert found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan.yaml"


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=0, max_value=2**32), cuts=st.integers(min_value=1, max_value=6))
def test_damaged_plans_are_told(seed: int, cuts: int, path: Path) -> None:
    chance = random.Random(seed)
    data = chance.choice(SEEDS)
    for _ in range(cuts):
        begin = chance.randrange(len(data) + 1)
        end = min(len(data), begin + chance.choice([0, 0, 1, 2, 10, 80]))
        data = data[:begin] + chance.choice([b"", *PIECES]) + data[end:]
    path.write_bytes(data)

    assert_plan_or_problems(path)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([p.decode("utf-8", "replace") for p in PIECES]),
)
NAMES = (
    "apiVersion kind metadata name vars type default enum pattern connections source target dsn password secret env file"
    " command key rds_iam rds instance steps id uses with approval jobs max_lag verify timeout sensitive extends remove"
    " after before"
)
KEYS = st.sampled_from(NAMES.split())
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=TREES,
    place=st.sampled_from(["", "vars", "metadata", "connections", "source", "steps", "step", "with"]),
)
def test_plans_of_odd_values_are_told(tree: object, place: str, path: Path) -> None:
    path.write_text(_plan_with(tree, place), encoding="utf-8", errors="surrogatepass")

    assert_plan_or_problems(path)


def _plan_with(tree: object, place: str) -> str:
    plan = yaml.safe_load(PLAN)
    holder = {"source": plan["connections"], "step": plan["steps"], "with": plan["steps"][1]}.get(place, plan)
    if place == "":
        plan = tree
    elif isinstance(holder, list):
        holder[0] = tree
    else:
        holder[place] = tree
    return yaml.safe_dump(plan, allow_unicode=True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_told(data: bytes, path: Path) -> None:
    path.write_bytes(data)

    with pytest.raises(PlanInvalid):
        load(path)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=TREES,
    place=st.sampled_from(["", "vars", "metadata", "connections", "source", "steps", "step", "with"]),
    below=st.booleans(),
)
def test_overlays_of_odd_values_are_told(tree: object, place: str, below: bool, path: Path) -> None:
    odd = _plan_with(tree, place)
    base = path.with_name("base.yaml")
    base.write_text(odd if below else PLAN, encoding="utf-8", errors="surrogatepass")
    over = (
        _plan_with(tree, place)
        if not below
        else "steps: [{id: copy, with: {jobs: 2}}, {id: check, remove: true}]\n"
    )
    path.write_text(f"extends: base.yaml\n{over}", encoding="utf-8", errors="surrogatepass")

    assert_plan_or_problems(path)
