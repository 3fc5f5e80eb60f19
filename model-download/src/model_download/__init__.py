"""Puts a model version into a model repository: checked, atomic, resumable."""
