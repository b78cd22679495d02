"""The settings: each declared once, the sources that set them, and their reference page."""
