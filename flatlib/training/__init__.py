"""Training: from a `RunConfig` to the weights of a network."""
