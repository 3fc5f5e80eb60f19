"""Model folders of the second format, written by tests."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def tensor(name: str, datatype: str, shape: list[int], **more: object) -> dict[str, Any]:
    """An input or output of model.json."""
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def write_model_folder(
    folder: Path,
    files: Mapping[str, bytes | str],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    **fields: object,
) -> Path:
    """Write the files and a model.json with their checksums."""
    checksums = {}
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        checksums[name] = hashlib.sha256(data).hexdigest()
    description = {
        "name": folder.name,
        "version": "1",
        "inputs": inputs,
        "outputs": outputs,
        "batched": True,
        "files": checksums,
        **fields,
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder
