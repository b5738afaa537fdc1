"""The commands. Importing this loads nothing."""

import os

# torch asks once, before its first tensor: large CPU tensors on huge pages, where Linux has them. Half of a small
# vision tower's time on a CPU went into the page faults of activations that are thrown away at once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
