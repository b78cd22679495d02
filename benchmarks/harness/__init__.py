"""Measures WSGI servers side by side: what `benchmarks/run.py` is made of."""
