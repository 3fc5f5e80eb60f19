"""The main job's measurement: REST and gRPC in turns, then the comparison.

Turns, because a machine is not as fast in one minute as in the next: what drifts slowly falls on
both protocols alike, and the spread between turns says how far the difference can be trusted.
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
from loadtest.runner import run_together
from loadtest.settings import GRPC_PREDICT, JS_PREDICT, Block, LoadTestSettings

BLOCKS = 10  # of each protocol
# Of each turn, so much is left out: every user has then sent its first request.
SETTLE_S = 1.2
# Between turns, for the last answers.
PAUSE_S = 0.1

RunTogether = Callable[[Sequence[LoadTestSettings], Credentials], list[Path]]


def benchmark(
    client: str,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    run: RunTogether = run_together,
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
    check_blocks(blocks)
    plain = [
        LoadTestSettings.from_env(environ, **{**options, "client": client, "test_type": test_type})
        for test_type in (JS_PREDICT, GRPC_PREDICT)
    ]
    group = secrets.token_hex(8)
    turns = interleaved([s.protocol for s in plain], blocks, plain[0].duration_s, plain[0].seed)
    runs = [replace(settings, blocks=turns[settings.protocol], group=group) for settings in plain]
    keys = credentials.load(client, environ=environ)
    folders = run(runs, keys)
    return comparison.compare(comparison.sources(folders), plain[0].output)


def check_blocks(blocks: int) -> None:
    """Refuse a number of turns that gives no balanced order."""
    if blocks < 2 or blocks % 2:
        raise SettingInvalid(f"--blocks is {blocks}, expected an even number, 2 or more")


def interleaved(
    keys: Sequence[str], blocks: int, duration_s: float, seed: int
) -> dict[str, tuple[Block, ...]]:
    """Who measures when: each once in an order that the seed draws, then in the reverse; and again.

    Of two that is ABBA or BAAB: what drifts in a straight line falls on all alike.

    Args:
        keys: Of the runs.
        blocks: Turns of each, even.
        duration_s: Seconds measured of each, over all its turns.
        seed: Of the order.

    Returns:
        Each run's turns, in order; numbers count the turns of all.
    """
    rng = random.Random(seed)  # noqa: S311  # of an order, not of a secret
    order: list[str] = []
    for _ in range(blocks // 2):
        there = rng.sample(keys, len(keys))
        order += [*there, *reversed(there)]
    turns: dict[str, list[Block]] = {key: [] for key in keys}
    begin_s = 0.0
    for number, key in enumerate(order):
        end_s = begin_s + SETTLE_S + duration_s / blocks
        turns[key].append(Block(number, begin_s, end_s, SETTLE_S))
        begin_s = end_s + PAUSE_S
    return {key: tuple(found) for key, found in turns.items()}
