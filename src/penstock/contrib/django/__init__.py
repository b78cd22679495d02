"""Django: ``manage.py penstock``, system checks, and live tests on Penstock.

Put ``"penstock.contrib.django"`` into ``INSTALLED_APPS``. docs/django.md describes it.
"""
