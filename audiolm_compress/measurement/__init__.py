"""Size, memory, latency and quality of a model, measured in a process of its own."""
