"""One page about a sweep or a run, from what is in its folder: `python -m experiments.report DIR`."""
