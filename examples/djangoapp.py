"""A Django project, which lies in ./helloworld.

Serve it with `penstock djangoapp:app`, and see http://127.0.0.1:8000/hello.
"""

import sys

sys.path.insert(0, "./helloworld")

from helloworld.wsgi import application  # noqa: E402 - found only on the path set above

app = application
