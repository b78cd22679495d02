"""Compatibility with other servers: the settings, files and hooks that their users have."""
