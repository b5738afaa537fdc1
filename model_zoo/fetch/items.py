"""What a name stands for: the files of a published model, a CLIP, or a whole model of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from model_zoo.hf.folder import hub_id, is_hf
from model_zoo.registry import canonical, get_entry
from model_zoo.weights.catalogue import CLIPS, PUBLISHED, WeightFile, missing_lines
from model_zoo.weights.layouts import complete_layout
from model_zoo.weights.origins import ByHand, HubOrigin

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def items_of(name: str, weights: Path, revision: str | None = None) -> list[WeightFile]:
    """The files and folders to have below `weights`; empty for a model that ships with the package.

    The published files of a model, or its Hugging Face conversion where that is there already, or where some of the
    published files may not be downloaded and it may. Raises ValueError for an unknown name, and for a `revision` of
    what is no model of the hub.
    """
    if is_hf(name):
        return [hub_folder(hub_id(name), revision)]
    if revision is not None:
        raise ValueError(f"revision= is for hf:ORG/MODEL, not for '{name}'. Leave it out.")
    if name in CLIPS:
        return [CLIPS[name]]
    entry = get_entry(name)
    if entry.embedded:
        return []
    if entry.served:
        raise ValueError(f"'{name}' stands behind a server, so there is nothing to fetch.")
    conversion, layout = PUBLISHED[canonical(name)].hub, complete_layout(canonical(name), weights)
    if layout and layout.kind == "converted":
        return []
    by_hand = [item for item in entry.files if isinstance(item.origin, ByHand)]
    if conversion and (layout.kind == "hub" if layout else missing_lines(by_hand, weights)):
        return [hub_folder(conversion, None)]
    return list(entry.files)


def hub_folder(repo: str, revision: str | None) -> WeightFile:
    """A model of the hub in the folder of its name. Raises ValueError for what is no such name."""
    if not REPO.fullmatch(repo) or ".." in repo:
        raise ValueError(f"'hf:{repo}' names no model of the hub. Expected hf:ORG/MODEL, as hf:org/some-model-7b.")
    return WeightFile(repo, f"the model {repo}", HubOrigin(repo, revision=revision), "see its page", ("config.json",))
