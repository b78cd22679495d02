"""PEP 3333: from a request to ``environ``, the application, and a response. Does no I/O."""
