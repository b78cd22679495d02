"""The operating system: control groups, privileges, signals, stacks, pid file, systemd."""
