"""Logging of the parent and the workers."""

import logging


def configure() -> None:
    """Log to stderr with time and process id."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s serving-grpc[%(process)d] %(message)s",
    )
