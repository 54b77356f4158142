"""What a run remembers between two invocations, and where it is kept."""
