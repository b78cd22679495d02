"""What the server asks of the operating system: control groups, privileges, signals, stacks, systemd."""
