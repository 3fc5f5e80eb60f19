"""On a server's PYTHONPATH, replaces the engines of the released models with null_predictor.py.

Python imports this file at startup, in the parent and in every worker, so the servers run
unchanged.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

REPLACED = ("serving_core.engines.litert", "serving_core.engines.tensorflow")


class _NullEngine(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REPLACED:
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("null_predictor.py"))


sys.meta_path.insert(0, _NullEngine())
