"""A Django project, which lies in ./helloworld.

Serve it with `penstock djangoapp:app`, and see http://127.0.0.1:8000/hello.
"""

import sys

sys.path.insert(0, "./helloworld")

from helloworld.wsgi import application

app = application
