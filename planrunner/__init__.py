"""planrunner: a declarative runner for PostgreSQL migrations."""

__version__ = "0.1.0"
