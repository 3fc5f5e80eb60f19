"""Renders objects as YAML for kubectl."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import SettingInvalid
from deploy.kubernetes.objects.common import Object

HEADER = "# Written by `make manifests`.\n"
# kubectl applies a folder's files in the order of their names.
_FIRST = {"Namespace": "00-namespace"}


class _Dumper(yaml.SafeDumper):
    """Block style for multi-line strings, and no anchors for shared values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _text)


def as_yaml(objects: Iterable[Object]) -> str:
    """One document for each object; of the same objects always the same text."""
    documents = (
        yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        for made in objects
    )
    return HEADER + "---\n".join(documents)


def files(objects: Iterable[Object]) -> dict[str, str]:
    """One file for each program, by name, its objects in the order given."""
    grouped: dict[str, list[Object]] = {}
    for made in objects:
        program = made["metadata"]["labels"]["app.kubernetes.io/name"]
        grouped.setdefault(_FIRST.get(made["kind"], program), []).append(made)
    return {f"{name}.yaml": as_yaml(grouped[name]) for name in sorted(grouped)}


def write(objects: Iterable[Object], folder: Path) -> list[Path]:
    """Write `files`, and remove outdated ones of an earlier run.

    Returns:
        The files, sorted.

    Raises:
        SettingInvalid: One of the names is taken by another file.
    """
    wanted = files(objects)
    there = set(folder.glob("*.yaml"))
    ours = {path for path in there if path.read_text(encoding="utf-8").startswith(HEADER)}
    for name in wanted:
        if folder / name in there - ours:
            raise SettingInvalid(
                f"OUTPUT is {str(folder)!r}, whose {name} was not written by make manifests; "
                "name another folder, or remove the file"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path in ours:
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in wanted]


def monitoring_files(root: Path) -> dict[str, str]:
    """What the monitoring overlay is made of, from the repository's folder `monitoring`.

    Raises:
        SettingInvalid: `root` is not the repository.
    """
    folder = root / "monitoring"
    paths = [*folder.glob("prometheus/*.yaml"), *folder.glob("dashboards/*.json")]
    if not paths:
        raise SettingInvalid(
            f"{root} is not the root of the repository, expected monitoring/ in it; run the "
            "command from the root"
        )
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}
