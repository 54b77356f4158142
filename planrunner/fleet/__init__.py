"""Fleets: one template plan, many databases, in waves."""
