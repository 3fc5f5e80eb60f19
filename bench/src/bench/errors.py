"""The one error of the benchmark."""


class BenchError(Exception):
    """It cannot be measured; `str(error)` is the one sentence that the person reads."""
