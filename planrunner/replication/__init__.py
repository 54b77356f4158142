"""The data plane: capture, copy, follow, prove, cut over."""
