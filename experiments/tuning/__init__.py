"""The seeded search behind `python -m experiments.tune`."""
