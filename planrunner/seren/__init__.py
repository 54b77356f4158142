"""SerenAI's cloud: its API of jobs and its console's API of projects, as a client sees them."""
