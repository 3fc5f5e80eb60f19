"""The benchmark: REST and gRPC interleaved in blocks, then compared.

The speed of a machine drifts. Interleaving spreads slow drift evenly over both protocols, and the
spread between blocks gives the confidence interval.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest import comparison, credentials
from loadtest.credentials import Credentials
from loadtest.errors import SettingInvalid
from loadtest.runner import run_interleaved
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, Block, LoadTestSettings

BLOCKS = 10  # of each protocol
SETTLE_S = 1.2  # unmeasured start of a block, until every user has sent its first request
PAUSE_S = 0.1  # between blocks, for the last responses

RunInterleaved = Callable[[Sequence[LoadTestSettings], Credentials], list[Path]]


def benchmark(
    client: str,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    run: RunInterleaved = run_interleaved,
    blocks: int = BLOCKS,
) -> Path:
    """Compare both protocols of `client`, interleaved.

    Args:
        client: The client whose keys and servers are used.
        options: Settings of both runs, by field of LoadTestSettings.
        environ: The source of other settings and keys.
        run: Runs interleaved load tests and returns their folders.
        blocks: Blocks per protocol, even; they share `duration_s`.

    Returns:
        The comparison's folder.

    Raises:
        LoadTestError: A run failed or was interrupted.
    """
    check_blocks(blocks)
    plain = [
        LoadTestSettings.from_env(environ, **{**options, "client": client, "test_type": test_type})
        for test_type in (JS_PREDICT, GRPC_PREDICT)
    ]
    group = secrets.token_hex(8)
    blocks_of = interleaved([s.protocol for s in plain], blocks, plain[0].duration_s, plain[0].seed)
    runs = [
        replace(settings, blocks=blocks_of[settings.protocol], group=group) for settings in plain
    ]
    scopes = {scope for settings in runs for scope in settings.scopes}
    folders = run(runs, credentials.load(client, scopes, environ))
    return comparison.compare(comparison.sources(folders), plain[0].output)


def check_blocks(blocks: int) -> None:
    """Raise SettingInvalid unless the number of blocks allows a balanced order."""
    if blocks < 2 or blocks % 2:
        raise SettingInvalid(f"--blocks is {blocks}, expected an even number, 2 or more")


def interleaved(
    keys: Sequence[str], blocks: int, duration_s: float, seed: int
) -> dict[str, tuple[Block, ...]]:
    """A balanced order of blocks: a random permutation, then its reverse, repeated.

    Two runs give ABBA or BAAB, which cancels linear drift.

    Args:
        keys: The runs.
        blocks: Blocks per run, even.
        duration_s: Measured seconds per run, over all its blocks.
        seed: The seed of the order.

    Returns:
        The blocks of each run, numbered over all runs.
    """
    rng = random.Random(seed)  # noqa: S311  # not a secret
    order: list[str] = []
    for _ in range(blocks // 2):
        there = rng.sample(keys, len(keys))
        order += [*there, *reversed(there)]
    blocks_of: dict[str, list[Block]] = {key: [] for key in keys}
    begin_s = 0.0
    for number, key in enumerate(order):
        end_s = begin_s + SETTLE_S + duration_s / blocks
        blocks_of[key].append(Block(number, begin_s, end_s, SETTLE_S))
        begin_s = end_s + PAUSE_S
    return {key: tuple(found) for key, found in blocks_of.items()}
