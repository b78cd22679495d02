"""The settings: each declared once, their sources, their checks, and the reference page."""
