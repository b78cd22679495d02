"""What the server asks of the system: control groups, privileges, signals, stacks, systemd."""
