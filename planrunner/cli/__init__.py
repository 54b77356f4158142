"""The command line: one file per verb; parse, call, report, exit code; no decisions."""

import gc

# What is imported lives on; to look for garbage among it would take a tenth of a command's start.
gc.set_threshold(20_000)
