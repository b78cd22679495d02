"""Makes what answers requests with files, and what is done with responses, from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.config.checks import split_mapping

if TYPE_CHECKING:
    import logging

    from penstock.config.settings import Settings
    from penstock.edge.response_filters import ResponseFilters
    from penstock.edge.served_directory import LogMessage
    from penstock.edge.static_files import StaticFiles

# What is not used is not imported: a worker starts sooner, and takes less memory.


def import_filters(settings: Settings) -> None:
    """Import all that the functions below import."""
    if settings.static:
        import penstock.edge.static_files
    if settings.compress or settings.sendfile_root:
        import penstock.edge.response_filters
    if settings.sendfile_root:
        import penstock.edge.sent_files  # noqa: F401
    if settings.compress:
        from penstock.edge.compression import Compression

        Compression()  # which imports the libraries that are installed


def static_files(settings: Settings, log: LogMessage) -> StaticFiles | None:
    """Return what answers requests with the files of `static`; None without any."""
    if not settings.static:
        return None
    from penstock.edge.static_files import StaticFiles, StaticSettings

    static = StaticSettings(
        [split_mapping(mapping) for mapping in settings.static],
        index=settings.static_index,
        max_age=settings.static_max_age,
        cache_bytes=settings.static_cache,
    )
    return StaticFiles(static, log, sendfile=settings.sendfile)


def response_filters(
    settings: Settings, logger: logging.Logger, log: LogMessage
) -> ResponseFilters | None:
    """Return what is done with responses; None where they are sent as they are."""
    if not (settings.compress or settings.sendfile_root):
        return None
    from penstock.edge.response_filters import ResponseFilters

    files = compression = None
    if settings.sendfile_root:
        from penstock.edge.sent_files import SentFiles

        roots = [split_mapping(mapping) for mapping in settings.sendfile_root]
        files = SentFiles(roots, log, sendfile=settings.sendfile)
    if settings.compress:
        from penstock.edge.compression import Compression

        compression = Compression()
        logger.info("compressing responses with %s", ", ".join(compression.codings))
    return ResponseFilters(files, compression)
