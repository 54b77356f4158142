"""A client and a judge that know nothing of planrunner: what was acknowledged is written down, and looked for afterwards.

``python -m tests.faults.referee write`` is an application at work, in a process of its own; ``… judge`` compares a
database with what the application had been told. Only the standard library and psycopg are used here.
"""
