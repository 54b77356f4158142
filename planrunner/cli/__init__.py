"""The command line: one file per verb; parse, call, report, exit code; no decisions."""
