"""A model from Hugging Face's hub: only the files that may come in are fetched, and a commit is fixed.

Where it is cached (`HF_HOME`), whether the network may be used at all (`HF_HUB_OFFLINE=1`), by which host
(`HF_ENDPOINT`) and with which token (`HF_TOKEN`) is Hugging Face's own configuration, read from the environment.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mainspring_modelfiles.refusal import Refused

_ALLOWED = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "config.json", "generation_config.json",
            "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "*.jinja",
            "README.md")  # fmt: skip


def fetch(repository: str, scratch: Path) -> tuple[Path, str]:
    """Brings `owner/name` or `owner/name@revision` into a folder of its own below `scratch`.

    Returns:
        The folder, and where its files came from, with the commit: `hub:owner/name@commit`.

    Raises:
        Refused: HUB_UNAVAILABLE, there is no such model, it may not be read, or the hub cannot be reached and the cache
            does not hold it.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repository.partition("@")
    try:
        cached = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_ALLOWED)))
    except Exception as err:
        message = (
            f"{repository} cannot be had from the hub ({type(err).__name__}); is the name right, and HF_HUB_OFFLINE?"
        )
        raise Refused("HUB_UNAVAILABLE", message) from err
    folder = scratch / name.replace("/", "--")
    folder.mkdir(parents=True)
    # The cache holds links to its blobs; what comes in are plain files.
    for path in sorted(cached.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(cached)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder, f"hub:{name}@{cached.name}"
