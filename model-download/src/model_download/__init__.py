"""Downloads a model version into a model repository: verified, atomic, resumable."""
