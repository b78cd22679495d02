"""What users of uWSGI bring: their configuration files."""
