"""`python -m bench.raw_model MODEL ENGINE SECONDS BATCHES`: an engine in a tight loop.

It is a separate process, so that it is pinned and measured like the servers. It prints READY once
loaded, starts on the next line of stdin, and prints a JSON result.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.processes import on_cores
from serving_core.digits import held_out
from serving_core.model_folder import DEFAULT_SIGNATURE, TENSORFLOW, ModelFolder, read_model_folder
from serving_core.predictor import classifier_of

AROUND = (1, 32)  # batch sizes before and after each server
# Batch sizes once per round: the bounds of the servers' batch-size histogram.
BATCHES = (1, 2, 4, 8, 16, 32)
ON_CORES = (1, 16)  # batch sizes of the scaling test; 16 is that of a busy server
WARM_UP_CALLS = 10
READY = "ready"

Score = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Load = Callable[[ModelFolder, Sequence[int]], dict[int, Score]]


def main() -> None:
    folder = read_model_folder(Path(sys.argv[1]), sys.argv[2])
    seconds, batches = float(sys.argv[3]), [int(word) for word in sys.argv[4].split(",")]
    load: Load = _tensorflow if folder.info.engine == TENSORFLOW else _litert
    loaded = load(folder, batches)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    json.dump([measure(loaded[batch], batch, seconds) for batch in batches], sys.stdout)


def run(
    model: Path, engine: str, seconds: float, batches: Sequence[int], cores: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """Measure with a concurrent process on each of `cores`.

    Returns:
        For each core, one result per batch size.

    Raises:
        BenchError: The engine failed.
    """
    words = (str(model), engine, str(seconds), ",".join(map(str, batches)))
    with ExitStack() as stack:
        processes = []
        for core in cores:
            with on_cores({core}):
                process = subprocess.Popen(
                    [sys.executable, "-m", "bench.raw_model", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        ready = all(p.stdout and p.stdout.readline().strip() == READY for p in processes)
        results = []
        if ready:
            for process in processes:
                if process.stdin:
                    process.stdin.write("go\n")
                    process.stdin.flush()
        for process in processes:
            output, errors = process.communicate()
            if not ready or process.returncode != 0:
                raise BenchError(f"the raw model failed: {errors.strip()[-300:]}")
            results.append(orjson.loads(output))
    return results


def measure(score: Score, batch: int, seconds: float) -> dict[str, Any]:
    """Score the held-out digits in batches of `batch` for `seconds`."""
    images = held_out().images
    inputs = [
        images[np.arange(start, start + batch) % len(images)]
        for start in range(0, len(images), batch)
    ]
    for call in range(WARM_UP_CALLS):
        score(inputs[call % len(inputs)])
    durations: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    now = began
    while now - began < seconds:
        score(inputs[len(durations) % len(inputs)])
        after = time.perf_counter()
        durations.append(after - now)
        now = after
    cpu_s, predictions = time.process_time() - cpu, len(durations) * batch
    p50, p99 = np.percentile(durations, (50, 99), method="inverted_cdf") * 1e3
    return {
        "batch": batch,
        "predictions": predictions,
        "per_s": predictions / (now - began),
        "cpu_ms": cpu_s * 1e3 / predictions,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


# The engines are imported on use, as they are expensive.


def _litert(folder: ModelFolder, batches: Sequence[int]) -> dict[int, Score]:
    """An interpreter per batch size, as in the server."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    def load(batch: int) -> Score:
        interpreter = Interpreter(model_path=str(folder.model), num_threads=1)
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        features = classifier_of(folder.info).features
        interpreter.resize_tensor_input(source["index"], [batch, features])
        interpreter.allocate_tensors()

        def score(images: NDArray[np.float32]) -> NDArray[np.float32]:
            interpreter.set_tensor(source["index"], images)
            interpreter.invoke()
            scores: NDArray[np.float32] = interpreter.get_tensor(result["index"])
            return scores

        return score

    return {batch: load(batch) for batch in batches}


def _tensorflow(folder: ModelFolder, batches: Sequence[int]) -> dict[int, Score]:
    """The SavedModel's function, as in the server; one thread, as TensorFlow uses one per core."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder.model))
    signature = model.signatures[DEFAULT_SIGNATURE]
    (source,) = signature.structured_input_signature[1]
    (result,) = signature.structured_outputs

    def score(images: NDArray[np.float32]) -> NDArray[np.float32]:
        _ = model  # kept alive, as the signature refers to its variables weakly
        scores: NDArray[np.float32] = signature(**{source: tf.constant(images)})[result].numpy()
        return scores

    return dict.fromkeys(batches, score)


if __name__ == "__main__":
    main()
