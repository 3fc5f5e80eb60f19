"""The gateway: Envoy as the proxy, and the control plane that configures it."""
