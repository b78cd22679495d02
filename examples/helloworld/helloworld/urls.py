"""Which path is answered by which view."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import path


def hello_world(request):
    return HttpResponse("Hello world from Django!\n", content_type="text/plain")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("hello", hello_world),
]
