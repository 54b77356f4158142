"""The kinds of steps: one module and one schema fragment each; ``registry`` finds them."""
