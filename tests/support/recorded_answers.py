"""A real API server's refusals, recorded and compared by tests/cluster/test_recorded_answers.py."""

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_suffix(".json")


def read() -> dict[str, Any]:
    """Each case's status (`code`) and `body`."""
    return dict(json.loads(_FILE.read_text())) if _FILE.exists() else {}


def write(case: str, answer: dict[str, Any]) -> None:
    """Record one anew."""
    _FILE.write_text(json.dumps({**read(), case: answer}, indent=1, sort_keys=True) + "\n")
