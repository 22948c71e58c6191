"""Run configurations and record them: from a `RunConfig` to one line of a record."""
