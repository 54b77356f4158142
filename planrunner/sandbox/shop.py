"""Loads the demo's shop database."""

from __future__ import annotations

from pathlib import Path

import psycopg


def load_shop(dsn: str, *, scale: float = 1.0) -> None:
    """Fill the empty database of a superuser's ``dsn``, all or nothing; objects belong to ``shop_owner``.

    ``scale`` multiplies the rows: at 1 the biggest table has 60,000, below 0.01 each has a few hundred.
    Roles that are missing (``shop_owner``, ``shop_reader``) are created.
    """
    script = Path(__file__).with_name("shop.sql").read_bytes()
    with psycopg.connect(dsn) as session:
        session.execute("SELECT set_config('shop.scale', %s, false)", (str(scale),))
        session.execute(script)
