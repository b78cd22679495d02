"""The control plane: what an operator asks a running server, and who answers."""
