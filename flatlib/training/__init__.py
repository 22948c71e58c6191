"""Train a network: from a `RunConfig` to its weights."""
