"""Where and how the parent and its workers log."""

import logging


def configure() -> None:
    """Log to stderr, each line with its time and process."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s serving-grpc[%(process)d] %(message)s",
    )
