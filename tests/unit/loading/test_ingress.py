"""What a plan may let into the source's security group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.loading import load

if TYPE_CHECKING:
    from pathlib import Path

_PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: orders}}
connections:
  source:
    dsn: postgresql://migrator@old.example.com/app
    rds: {{instance: orders-prod{ingress}}}
  target: {{dsn: postgresql://migrator@new.example.com/app}}
steps:
  - {{id: check, uses: validate}}
"""


@pytest.mark.parametrize(
    ("ingress", "wanted", "ranges"),
    [
        ("", False, ()),
        (", authorize_ingress: false", False, ()),
        (", authorize_ingress: true", True, ()),
        # As AWS writes them: the network's own address, an address alone as a range of one, each once.
        (
            ", authorize_ingress: [203.0.113.7/24, 203.0.113.0/24, 198.51.100.9, '2001:DB8::7/128']",
            ("203.0.113.0/24", "198.51.100.9/32", "2001:db8::7/128"),
            ("203.0.113.0/24", "198.51.100.9/32", "2001:db8::7/128"),
        ),
    ],
)
def test_ranges_are_taken_as_aws_writes_them(
    tmp_path: Path, ingress: str, wanted: object, ranges: tuple[str, ...]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(_PLAN.format(ingress=ingress))
    source = load(path, variables={}).source
    assert source.authorize_ingress == wanted
    assert source.ingress_ranges == ranges
