"""What goes wrong in HDFS, as Hadoop's own exceptions tell it by whatever protocol, in the words of `errors.py`."""

from __future__ import annotations

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable

FORBIDDEN = frozenset(
    {"AccessControlException", "AuthorizationException", "AuthenticationException", "InvalidToken", "SecurityException"}
)
"""Exceptions about who asks."""

IMPOSSIBLE = frozenset(
    {
        "FileAlreadyExistsException",
        "HadoopIllegalArgumentException",
        "IllegalArgumentException",
        "InvalidPathException",
        "MaxDirectoryItemsExceededException",
        "ParentNotDirectoryException",
        "PathComponentTooLongException",
        "PathIsNotEmptyDirectoryException",
        "UnsupportedOperationException",
    }
)
"""Exceptions about a path that will never do."""

FULL = frozenset({"DSQuotaExceededException", "NSQuotaExceededException", "QuotaByStorageTypeExceededException"})
"""Exceptions about room that somebody has to make."""


def fault_of(doing: str, exception: str, message: str) -> DeliveryError:
    """Give the fault that an exception of Hadoop means.

    :param doing: begins the message.
    :param exception: class of the exception, with or without its package.
    :param message: its message; what follows the first line is Java's stack and left out.
    """
    kind = exception.rpartition(".")[2]
    first_line = message.strip().partition("\n")[0]
    said = f"{doing}: HDFS answered {kind}: {first_line}"
    if kind == "FileNotFoundException":
        return NotThereYet(f"{said}; check the path if it should be there")
    if kind in FORBIDDEN:
        return Refused(f"{said}; check the connection's login and what it may do there")
    if kind in IMPOSSIBLE:
        return Refused(f"{said}; check the path")
    if kind in FULL:
        return Refused(f"{said}; remove what is not needed there, or have the quota raised")
    return StoreUnreachable(f"{said}; try again later")
