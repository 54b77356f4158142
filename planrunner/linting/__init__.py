"""What `planrunner lint` knows beyond loading: rules with codes, good practice, disables, output for programs."""
