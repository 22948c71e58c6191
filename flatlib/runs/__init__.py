"""Sweeps and records: from a `RunConfig` to one line of a record."""
