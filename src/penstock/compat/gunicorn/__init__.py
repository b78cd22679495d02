"""Compatibility with gunicorn: its configuration files and its hooks."""
