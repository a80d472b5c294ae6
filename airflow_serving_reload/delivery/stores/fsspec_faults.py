"""What goes wrong behind fsspec's file systems and their clients, in the words of `errors.py`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from fsspec.exceptions import FSTimeoutError

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.statuses import BUSY

REFUSALS = frozenset(
    {
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMSGSIZE,
        errno.ENAMETOOLONG,
        errno.ENOSYS,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EREMCHG,
        errno.EROFS,
    }
)
"""Faults that a retry cannot mend."""

REFUSED = frozenset(range(400, 600)) - BUSY - {409}
"""Statuses by which a server says that the same request will not succeed later either.

409 is not one of them, since S3 says it while another request for the same thing is under way.
"""

# The clients are no dependencies of this package, so their faults are known by name.
CLIENTS = frozenset({"adlfs", "aiobotocore", "aiohttp", "asyncssh", "azure", "botocore", "gcsfs", "google", "s3fs"})
"""Packages whose faults are the network's, or the server's, unless they are named below."""

REFUSED_BY_CLIENT = frozenset(
    {
        "asyncssh.misc.HostKeyNotVerifiable",
        "asyncssh.misc.IllegalUserName",
        "asyncssh.misc.KeyExchangeFailed",
        "asyncssh.misc.PermissionDenied",
        "asyncssh.sftp.SFTPError",
        "botocore.exceptions.NoCredentialsError",
        "botocore.exceptions.NoRegionError",
        "botocore.exceptions.ParamValidationError",
        "botocore.exceptions.PartialCredentialsError",
        "botocore.exceptions.ProfileNotFound",
        "botocore.exceptions.SSLError",
    }
)
"""Faults of the clients that a retry cannot mend, those of the classes below them included."""

LOST_BY_CLIENT = frozenset({"asyncssh.sftp.SFTPConnectionLost", "asyncssh.sftp.SFTPNoConnection"})
"""Faults below those that a retry can mend all the same."""


def fault_of(error: Exception, doing: str) -> DeliveryError | None:
    """Translate a fault of a file system, or of the client that it uses; None for any other.

    :param doing: begins the message.
    """
    said = f"{doing}: {_words(error)}"
    if isinstance(error, FileNotFoundError):
        if type(error.__cause__).__name__ == "NoSuchBucket":
            return Refused(f"{said}; check the bucket's name, or make the bucket")
        return NotThereYet(f"{doing}: it does not exist; check the path if it should")
    if isinstance(error, PermissionError) or type(error).__name__ == "SFTPPermissionDenied":
        return Refused(f"{said}; check the connection's login and password, and what they may do")
    if _is_refusal(error):
        return Refused(f"{said}; check the path, and the connection's settings")
    if isinstance(error, OSError) or any(kind.__module__.partition(".")[0] in CLIENTS for kind in type(error).__mro__):
        return StoreUnreachable(
            f"{said}; check the connection's host and port, and whether the store runs, and try again"
        )
    return None


def _is_refusal(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in REFUSED
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if names & LOST_BY_CLIENT:
        return False
    if names & REFUSED_BY_CLIENT or isinstance(error, ValueError):
        return True
    return isinstance(error, OSError) and error.errno in REFUSALS


def _status(error: Exception) -> int | None:
    """Give the status of the answer that a fault tells of, as botocore keeps it."""
    response = getattr(error.__cause__, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    status = metadata.get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _words(error: BaseException) -> str:
    """Give the words of a fault and of what it began with."""
    if isinstance(error, FSTimeoutError):
        return "no answer in time"
    cause, seen = error, {id(error)}
    # a client that raises one fault twice makes it a cause of itself
    while (inner := cause.__cause__ or cause.__context__) and id(inner) not in seen:
        cause = inner
        seen.add(id(inner))
    parts = [_own_words(error), _own_words(cause)]
    return parts[0] if parts[1] in parts[0] else f"{parts[0]} ({parts[1]})"


def _own_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        known, words = os.strerror(error.errno), error.strerror or ""
        return known if words in ("", known) else f"{known}: {words}"
    # some clients show in lines what they did not understand
    return " ".join(str(error).split()) or type(error).__name__
