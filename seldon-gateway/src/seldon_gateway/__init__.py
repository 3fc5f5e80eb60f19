"""The gateway: Envoy in front, the control plane that configures it behind."""
