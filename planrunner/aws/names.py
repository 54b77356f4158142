"""Names of what planrunner makes at AWS, by AWS's rules; imports nothing that is slow to load."""

from __future__ import annotations

import re

_GROUP_NAME_LIMIT = 255


def group_name_for(instance: str) -> str:
    """The name of the parameter group that we make for an instance: letters, digits, single hyphens."""
    clean = re.sub(r"[^a-z0-9]+", "-", instance.lower()).strip("-")
    return f"planrunner-{clean}"[:_GROUP_NAME_LIMIT].rstrip("-")
