"""Times scoring and training against the naive protocol: `python -m experiments.bench`."""
