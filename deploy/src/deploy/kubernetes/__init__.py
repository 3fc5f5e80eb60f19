"""The stack on Kubernetes."""
