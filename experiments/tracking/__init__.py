"""What a run says of itself while it runs: CSV, TensorBoard and Weights & Biases under the same documented keys.

`keys` is the one list of keys; `session` decides where W&B writes; `logger` is the W&B run that never stops a training
run; `pictures` and `results` are what is logged beside Lightning's numbers; `sweep` describes a whole sweep as one run;
`recorded` reads an offline run back. Importing this imports neither torch nor wandb.
"""

from experiments.tracking.keys import KEYS, Key, matching_key
from experiments.tracking.sweep import log_sweep

__all__ = ["KEYS", "Key", "log_sweep", "matching_key"]
