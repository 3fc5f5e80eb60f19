"""The error of the benchmark."""


class BenchError(Exception):
    """A measurement is not possible; `str(error)` is the message for the user."""
