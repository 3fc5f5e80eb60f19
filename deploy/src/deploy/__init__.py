"""The stack on this machine, and the commands that operate it."""
