"""AWS as planrunner needs it; the only package that imports boto3."""
