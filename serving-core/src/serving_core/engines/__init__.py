"""The engines, one module each; loading.py imports the one that a model needs."""
