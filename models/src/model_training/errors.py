"""What keeps a training from starting, or its result from being released."""


class TrainingRefused(Exception):
    """One sentence for the person at the terminal: what is wrong, and what would be right."""
