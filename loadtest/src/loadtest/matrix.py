"""The matrix: request variants on the same servers, interleaved and compared."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest import comparison, credentials
from loadtest.benchmark import RunInterleaved, check_blocks, interleaved
from loadtest.comparison import Source
from loadtest.errors import SettingInvalid
from loadtest.payloads import DIGITS
from loadtest.runner import run_interleaved
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, PER_CALL, LoadTestSettings
from loadtest.wire import JSON_POST

BLOCKS = 6  # per variant
IMAGES = 8
VARIED = ("connections", "decimals", "images", "rest_form")


@dataclass(frozen=True)
class Variant:
    """A request variant.

    Attributes:
        key: Its name on the command line and of its folder.
        name: Its display name.
        test_type: Its protocol.
        options: Its own settings.
    """

    key: str
    name: str
    test_type: str
    options: Mapping[str, Any] = field(default_factory=dict)


_POST: Mapping[str, Any] = {"rest_form": JSON_POST}

# The first is the baseline.
VARIANTS = {
    variant.key: variant
    for variant in (
        Variant("get", "REST, JSONP GET", JS_PREDICT),
        Variant("post", "REST, JSON POST", JS_PREDICT, _POST),
        Variant("grpc", "gRPC", GRPC_PREDICT),
        Variant("get-2", "JSONP GET, 2 decimals", JS_PREDICT, {"decimals": "2"}),
        Variant("post-2", "JSON POST, 2 decimals", JS_PREDICT, {**_POST, "decimals": "2"}),
        Variant("get-per-call", "JSONP GET, per call", JS_PREDICT, {"connections": PER_CALL}),
        Variant("grpc-per-call", "gRPC, per call", GRPC_PREDICT, {"connections": PER_CALL}),
        Variant(
            "post-images", f"JSON POST, {IMAGES} images", JS_PREDICT, {**_POST, "images": IMAGES}
        ),
        Variant("grpc-images", f"gRPC, {IMAGES} images", GRPC_PREDICT, {"images": IMAGES}),
    )
}


def matrix(
    client: str,
    keys: Sequence[str],
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    run: RunInterleaved = run_interleaved,
    blocks: int = BLOCKS,
) -> Path:
    """Load-test `client` with the variants `keys`, interleaved, and compare each with the first.

    Args:
        client: The client whose keys and servers are used.
        keys: Two or more of VARIANTS.
        options: Settings of all runs, by field of LoadTestSettings.
        environ: The source of other settings and keys.
        run: Runs interleaved load tests and returns their folders.
        blocks: Blocks per variant, even; they share `duration_s`.

    Returns:
        The comparison's folder.

    Raises:
        LoadTestError: A run failed or was interrupted.
    """
    check_blocks(blocks)
    unknown = [key for key in keys if key not in VARIANTS]
    if unknown or len(set(keys)) != len(keys) or len(keys) < 2:
        raise SettingInvalid(
            f"--ways is {','.join(keys)}, expected two or more distinct of {', '.join(VARIANTS)}"
        )
    variants = [VARIANTS[key] for key in keys]
    plain = [
        LoadTestSettings.from_env(
            environ,
            **{**options, **variant.options, "client": client, "test_type": variant.test_type},
        )
        for variant in variants
    ]
    if plain[0].payload != DIGITS:
        raise SettingInvalid(
            f"--payload is {plain[0].payload}, expected {DIGITS}: the variants are of the Seldon "
            "protocol"
        )
    group = secrets.token_hex(8)
    blocks_of = interleaved(keys, blocks, plain[0].duration_s, plain[0].seed)
    runs = [
        replace(one, blocks=blocks_of[variant.key], group=group)
        for one, variant in zip(plain, variants, strict=True)
    ]
    folders = run(runs, credentials.load(client, environ=environ))
    return comparison.compare(
        [
            Source(folder, variant.key, variant.name)
            for folder, variant in zip(folders, variants, strict=True)
        ],
        plain[0].output,
        varied=VARIED,
        what="matrix",
    )
