"""Prepares the application's own metrics, where the settings want it (`prometheus_multiproc`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.config.checks import bad_place

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.system.privileges import Identity

# What is not used is not imported: a worker starts sooner, and takes less memory.


def set_up_metric_files(settings: Settings) -> None:
    """Set `prometheus_client` up. Raises `SettingsError`.

    To be called before the application is loaded, by the user of the workers.
    """
    if settings.prometheus_multiproc is not None:
        from penstock.telemetry.application_metrics import set_up

        set_up(settings.prometheus_multiproc)


def remove_old_metric_files(settings: Settings, identity: Identity | None) -> None:
    """Remove the files of an earlier server, with the rights of the workers.

    To be called before there are workers. Raises `SettingsError`.
    """
    if settings.prometheus_multiproc is None:
        return
    from penstock.system.as_user import HelperError, wait_for
    from penstock.telemetry.application_metrics import remove_old_files, work_as

    directory = settings.prometheus_multiproc
    try:
        if identity is None:
            remove_old_files(directory)
        else:
            wait_for(work_as(identity, remove_old_files, directory))
    except HelperError as error:
        raise bad_place(settings, "prometheus_multiproc", directory, str(error)) from None
    except OSError as error:
        raise bad_place(settings, "prometheus_multiproc", directory, error.strerror) from None
