"""The application that Django finds in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig


class PenstockConfig(AppConfig):
    """Registers the system checks. The command needs no registration."""

    name = "penstock.contrib.django"
    label = "penstock"
    verbose_name = "Penstock"

    def ready(self) -> None:
        """Register the checks."""
        from penstock.contrib.django import checks

        checks.register_all()
