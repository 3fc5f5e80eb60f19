"""Kubernetes objects from settings, as plain dicts in the API's JSON form. Pure."""
