"""The main job's measurement: REST and gRPC in turns, then the comparison.

Turns, because a machine is not as fast in one minute as in the next: what drifts slowly falls on
both protocols alike, and the spread between turns says how far the difference can be trusted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest import comparison, credentials
from loadtest.credentials import Credentials
from loadtest.errors import SettingInvalid
from loadtest.runner import run_together
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, Block, LoadTestSettings

BLOCKS = 10  # of each protocol
# Of each turn, so much is left out: every user has then sent its first request.
SETTLE_S = 1.2
# Between turns, for the last answers.
PAUSE_S = 0.1

Run = Callable[[Sequence[LoadTestSettings], Credentials], list[Path]]


def benchmark(
    client: str,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    run: Run = run_together,
    blocks: int = BLOCKS,
) -> Path:
    """Load-test `client` over both protocols and compare.

    Args:
        client: Whose keys and whose servers.
        options: Settings of both runs, named as the fields of LoadTestSettings.
        environ: Where settings that `options` lacks are looked for, and keys.
        run: Runs load tests that start together and returns their folders.
        blocks: Turns of each protocol, even; together they measure `duration_s` of each.

    Returns:
        The comparison's folder; its summary.json says whether both runs are valid.

    Raises:
        LoadTestError: A run failed or was interrupted: there is nothing to compare.
    """
    if blocks < 2 or blocks % 2:
        raise SettingInvalid(f"--blocks is {blocks}, expected an even number from 2")
    plain = [
        LoadTestSettings.from_env(environ, **{**options, "client": client, "test_type": test_type})
        for test_type in (JS_PREDICT, GRPC_PREDICT)
    ]
    turns = interleaved([s.protocol for s in plain], blocks, plain[0].duration_s, plain[0].seed)
    runs = [replace(settings, blocks=turns[settings.protocol]) for settings in plain]
    keys = credentials.load(client, environ=environ)
    folders = run(runs, keys)
    return comparison.compare(comparison.sources(folders), plain[0].output)


def interleaved(
    protocols: Sequence[str], blocks: int, duration_s: float, seed: int
) -> dict[str, tuple[Block, ...]]:
    """Who measures when: ABBA or BAAB, four turns at a time, as the seed decides.

    Args:
        protocols: The two.
        blocks: Turns of each, even.
        duration_s: Seconds measured of each, over all its turns.
        seed: Of the order.

    Returns:
        Each protocol's turns, in order; numbers count the turns of both.
    """
    rng = random.Random(seed)  # noqa: S311  # of an order, not of a secret
    a, b = protocols
    order = []
    for _ in range(blocks // 2):
        order += [a, b, b, a] if rng.random() < 0.5 else [b, a, a, b]
    turns: dict[str, list[Block]] = {a: [], b: []}
    begin_s = 0.0
    for number, protocol in enumerate(order):
        end_s = begin_s + SETTLE_S + duration_s / blocks
        turns[protocol].append(Block(number, begin_s, end_s, SETTLE_S))
        begin_s = end_s + PAUSE_S
    return {protocol: tuple(found) for protocol, found in turns.items()}
