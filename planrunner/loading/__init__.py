"""From a file to a Plan: strict YAML, templates on leaves, schema, values."""
