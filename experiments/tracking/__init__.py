"""What a run says of itself while it runs: CSV, TensorBoard and Weights & Biases under the same documented keys.

`keys` is the one list of keys; `session` decides where W&B writes; `logger` is the W&B run that never stops a training
run; `run` is what is logged beside Lightning's numbers; `sweep` describes a whole sweep as one run; `workspaces` are
the dashboards of both.
"""
