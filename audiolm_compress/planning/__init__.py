"""What a model will weigh, compute and read, from its configs alone."""
