"""`python -m bench.raw_model MODEL SECONDS`: LiteRT in a tight loop, with nothing around it.

A process of its own, so that it is pinned and measured as the servers are. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from model_runtime.digits import held_out

BATCHES = (1, 32)
WARM_UP_CALLS = 10


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    results = [measure(folder / "model.tflite", batch, seconds) for batch in BATCHES]
    json.dump(results, sys.stdout)


def measure(file: Path, batch: int, seconds: float) -> dict[str, Any]:
    """Score the held-out digits, `batch` at a time, for so many seconds."""
    # Imported here: whoever asks for the batches must not pay for it.
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    interpreter = Interpreter(model_path=str(file), num_threads=1)
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    images = held_out().images
    interpreter.resize_tensor_input(source["index"], [batch, images.shape[1]])
    interpreter.allocate_tensors()
    inputs = [
        images[np.arange(start, start + batch) % len(images)]
        for start in range(0, len(images), batch)
    ]

    def score(call: int) -> None:
        interpreter.set_tensor(source["index"], inputs[call % len(inputs)])
        interpreter.invoke()
        interpreter.get_tensor(result["index"])

    for call in range(WARM_UP_CALLS):
        score(call)
    durations: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    now = began
    while now - began < seconds:
        score(len(durations))
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


if __name__ == "__main__":
    main()
