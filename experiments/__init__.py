"""The commands. Importing this loads nothing."""

import os

# Both are read once, by torch before its first tensor and by its OpenMP when it is loaded, and change no number.
# Large CPU tensors on huge pages, where Linux has them: page faults of activations that are thrown away at once took
# half of a small vision tower's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# A thread that waits for another sleeps instead of spinning: beside any other job on the machine the spinning made
# two threads ten times as slow as one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
