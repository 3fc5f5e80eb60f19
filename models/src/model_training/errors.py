"""Errors of training and release."""


class TrainingRefused(Exception):
    """The training cannot start, or its result cannot be released."""
