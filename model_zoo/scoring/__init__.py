"""Exact likelihood of candidate answers: packed in one forward, and the naive oracle beside it."""
