"""The trace of a Hessian: exact where the network allows it, estimated with its error elsewhere."""
