"""Throw-away PostgreSQL servers and a stand-in RDS API, for the demo and the tests."""
