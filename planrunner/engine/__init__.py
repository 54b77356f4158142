"""Runs a plan: asks steps what is missing, performs it, journals it, reports it."""
