"""What the users of other servers bring along: their settings, files and hooks."""
