"""Images, questions and candidate answers; knows nothing of models. `load_datamodule("cifar10", root="data")`."""

from datamodules.registry import list_datamodules, load_datamodule

__all__ = ["list_datamodules", "load_datamodule"]
