"""Prompts on the Hugging Face hub: getting one by name, and pushing a folder. Nothing here is needed offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightning_modules.artefact import FLOAT_FILE, MANIFEST_FILE, PNG_FILE

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
FILES = (MANIFEST_FILE, FLOAT_FILE, PNG_FILE)


def pretrained_folder(name: str | Path, revision: str | None = None) -> Path:
    """A folder as it is; else the files of the prompt `user/name` in the hub's cache, fetched where they are not there.

    Raises ValueError for a name or revision that the hub does not have, PermissionError, ConnectionError.
    """
    if os.path.lexists(name) or not NAME.fullmatch(str(name)):
        return Path(name)
    # Here, not above: a prompt in a folder needs neither, and they take most of a second.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from model_zoo.fetch.hub import endpoint, explained, status_of, token

    folder = None
    for file in FILES:  # after the first one, all of its commit
        wanted = folder.name if folder else revision
        try:
            path = hf_hub_download(str(name), file, revision=wanted, token=token(), endpoint=endpoint())
        except LocalEntryNotFoundError:
            raise ConnectionError(
                f"Cannot get {file} of '{name}': {endpoint()} was not reached, and the cache does not hold it. "
                "Expected a folder, or a network; HF_HUB_OFFLINE=1 forbids one."
            ) from None
        except Exception as error:
            if final := explained(error, status_of(error), str(name), revision):
                raise final from None
            raise
        folder = Path(path).parent
    assert folder is not None
    return folder


def push_folder(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Upload a folder as the repository `name`, made unless it is there; returns the address of its page.

    Raises PermissionError without HF_TOKEN or where it may not write, ValueError for what is no name, ConnectionError.
    """
    from huggingface_hub import HfApi

    from model_zoo.fetch.hub import endpoint, explained, status_of, token

    if not NAME.fullmatch(name):
        raise ValueError(f"'{name}' cannot be the name of a repository. Expected user/name.")
    if not token():
        raise PermissionError(
            "Nothing was pushed: no HF_TOKEN. Expected a token that may write, from "
            "https://huggingface.co/settings/tokens, in that variable."
        )
    api = HfApi(endpoint=endpoint(), token=token())
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    except Exception as error:
        if final := explained(error, status_of(error), name, None):
            raise final from None
        raise
    return f"{endpoint()}/{name}"
