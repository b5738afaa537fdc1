"""Getting published weights: `python -m model_zoo fetch NAME`."""
