"""What a team that moves from gunicorn has: its settings, its files, its hooks."""
