"""Trains the tiny MLLMs that ship with the package: `python -m experiments.embedded_zoo NAME|all`."""
