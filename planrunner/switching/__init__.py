"""Where the application's traffic goes: told before the fence, after its commit, and when it was rolled back."""
