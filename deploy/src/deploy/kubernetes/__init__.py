"""The stack on Kubernetes: settings -> objects -> YAML, or an API server."""
