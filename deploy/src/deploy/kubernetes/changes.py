"""Names of the fields that differ between two objects; never values, which may be secret."""

from collections.abc import Iterator
from typing import Any

# Metadata that the API server maintains itself.
_ITS_OWN = frozenset(
    {
        "managedFields",
        "resourceVersion",
        "generation",
        "uid",
        "creationTimestamp",
        "finalizers",
        "annotations",
    }
)
_NAMED_BY = ("name", "containerPort", "port", "mountPath", "key")


def changed_paths(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The smallest fields that differ, such as `spec.template.spec.containers[envoy].image`."""
    return list(_differences(_desired(before), _desired(after), ""))


def _desired(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in item["metadata"].items() if key not in _ITS_OWN}
    # Such as deployment.kubernetes.io/revision: controllers write at any time.
    notes = item["metadata"].get("annotations") or {}
    metadata["annotations"] = {
        key: value for key, value in notes.items() if "kubernetes.io/" not in key
    }
    return {**{k: v for k, v in item.items() if k != "status"}, "metadata": metadata}


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list):
        before, after = _by_name(before), _by_name(after)
        form = "{path}[{key}]"
    elif isinstance(before, dict) and isinstance(after, dict):
        form = "{path}.{key}" if path else "{key}"
    else:
        yield path
        return
    for key in sorted({*before, *after}, key=str):
        name = form.format(path=path, key=key)
        yield from _differences(before.get(key), after.get(key), name)


def _by_name(items: list[Any]) -> dict[Any, Any]:
    for name in _NAMED_BY:
        if all(isinstance(item, dict) and name in item for item in items):
            return {item[name]: item for item in items}
    return dict(enumerate(items))
