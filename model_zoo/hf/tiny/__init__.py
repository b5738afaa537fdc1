"""Tiny random models of the hub's families, as complete folders: to try a run before any weights are fetched."""
