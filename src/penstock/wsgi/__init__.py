"""PEP 3333: makes the ``environ``, calls the application, checks its response. Does no I/O."""
