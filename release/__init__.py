"""What makes a release of planrunner: never installed with it."""
