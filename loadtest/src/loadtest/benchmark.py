"""The main job's measurement: the same load over REST, then over gRPC, then the comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loadtest import comparison, credentials, preflight
from loadtest.credentials import Credentials
from loadtest.runner import run_load_test
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, LoadTestSettings

Check = Callable[[LoadTestSettings, Credentials], None]
Run = Callable[[LoadTestSettings, Credentials], Path]


def benchmark(
    client: str,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    check: Check = preflight.check,
    run: Run = run_load_test,
) -> Path:
    """Load-test `client` over both protocols and compare.

    Args:
        client: Whose keys and whose servers.
        options: Settings of both runs, named as the fields of LoadTestSettings.
        environ: Where settings that `options` lacks are looked for, and keys.
        check: Sends one protocol's first request.
        run: Runs one load test and returns its folder.

    Returns:
        The comparison's folder; its summary.json says whether both runs are valid.

    Raises:
        LoadTestError: A run failed or was interrupted: there is nothing to compare.
    """
    # What would stop the second run is told before the first, not after a minute.
    rest, grpc = (
        LoadTestSettings.from_env(environ, **{**options, "client": client, "test_type": test_type})
        for test_type in (JS_PREDICT, GRPC_PREDICT)
    )
    keys = credentials.load(client, environ=environ)
    for settings in (rest, grpc):
        check(settings, keys)
    return comparison.compare(run(rest, keys), run(grpc, keys), rest.output)
