"""The transfer sweep: what its cells are, who computes them, what is kept of them (`experiments/transfer_sweep.py`)."""
