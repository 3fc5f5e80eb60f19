"""What people argue about, measured in turns: ways to ask the same servers for a prediction."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest import comparison, credentials
from loadtest.benchmark import RunTogether, check_blocks, interleaved
from loadtest.comparison import Source
from loadtest.errors import SettingInvalid
from loadtest.runner import run_together
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, PER_CALL, LoadTestSettings
from loadtest.wire import JSON_POST

BLOCKS = 6  # of each way
IMAGES = 8
VARIED = ("connections", "decimals", "images", "rest_form")


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Attributes:
        key: On the command line and as its folder.
        name: As people call it.
        test_type: Which protocol.
        options: Settings that differ from those of the others.
    """

    key: str
    name: str
    test_type: str
    options: Mapping[str, Any] = field(default_factory=dict)


_POST: Mapping[str, Any] = {"rest_form": JSON_POST}

# The first is what the others are compared with.
WAYS = {
    way.key: way
    for way in (
        Way("get", "REST, JSONP GET", JS_PREDICT),
        Way("post", "REST, JSON POST", JS_PREDICT, _POST),
        Way("grpc", "gRPC", GRPC_PREDICT),
        Way("get-2", "JSONP GET, 2 decimals", JS_PREDICT, {"decimals": "2"}),
        Way("post-2", "JSON POST, 2 decimals", JS_PREDICT, {**_POST, "decimals": "2"}),
        Way("get-per-call", "JSONP GET, per call", JS_PREDICT, {"connections": PER_CALL}),
        Way("grpc-per-call", "gRPC, per call", GRPC_PREDICT, {"connections": PER_CALL}),
        Way("post-images", f"JSON POST, {IMAGES} images", JS_PREDICT, {**_POST, "images": IMAGES}),
        Way("grpc-images", f"gRPC, {IMAGES} images", GRPC_PREDICT, {"images": IMAGES}),
    )
}


def matrix(
    client: str,
    keys: Sequence[str],
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    run: RunTogether = run_together,
    blocks: int = BLOCKS,
) -> Path:
    """Load-test `client` in every way of `keys` by turns, and compare each with the first.

    Args:
        client: Whose keys and whose servers.
        keys: Of WAYS, two or more.
        options: Settings of all runs, named as the fields of LoadTestSettings.
        environ: Where settings that `options` lacks are looked for, and keys.
        run: Runs load tests that start together and returns their folders.
        blocks: Turns of each way, even; together they measure `duration_s` of each.

    Returns:
        The comparison's folder.

    Raises:
        LoadTestError: A run failed or was interrupted: there is nothing to compare.
    """
    check_blocks(blocks)
    unknown = [key for key in keys if key not in WAYS]
    if unknown or len(set(keys)) != len(keys) or len(keys) < 2:
        raise SettingInvalid(
            f"--ways is {','.join(keys)}, expected two or more distinct of {', '.join(WAYS)}"
        )
    ways = [WAYS[key] for key in keys]
    plain = [
        LoadTestSettings.from_env(
            environ, **{**options, **way.options, "client": client, "test_type": way.test_type}
        )
        for way in ways
    ]
    group = secrets.token_hex(8)
    turns = interleaved(keys, blocks, plain[0].duration_s, plain[0].seed)
    runs = [
        replace(one, blocks=turns[way.key], group=group)
        for one, way in zip(plain, ways, strict=True)
    ]
    folders = run(runs, credentials.load(client, environ=environ))
    return comparison.compare(
        [Source(folder, way.key, way.name) for folder, way in zip(folders, ways, strict=True)],
        plain[0].output,
        varied=VARIED,
        what="matrix",
    )
