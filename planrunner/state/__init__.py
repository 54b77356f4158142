"""Where the progress of a plan is kept."""
