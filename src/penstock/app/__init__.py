"""The application: loading it, and watching its files for changes."""
