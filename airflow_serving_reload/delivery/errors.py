"""What can go wrong in a delivery, as one tree.

::

    DeliveryError
    ├── NotThereYet           the donefile or the model is not in the store: wait for it
    ├── StoreUnreachable      the store does not answer or broke off: try again
    ├── Refused               somebody or something says no, and would say no again: mend it first
    ├── Corrupt               the bytes are not those that were promised
    ├── PublicationFailed     the host did not let a release become the live one; the old one is, unless it says not
    └── ReloadRefused         the server does not serve the release; a delivery has put the old one back
        └── ReloadUnanswered  it was told to load it, never said how that went, and may still be at it

A message says what was being done to what, what was found, and what to do.
"""

from __future__ import annotations


class DeliveryError(Exception):
    """Root of everything that a delivery raises on purpose."""


class NotThereYet(DeliveryError):
    """The donefile or the model is absent; for training in progress that is the normal state."""


class StoreUnreachable(DeliveryError):
    """The store did not answer, answered that it cannot at the moment, or broke off; a retry may succeed.

    :param message: what went wrong.
    :param retry_after: seconds after which the store wants to be asked again, if it says so.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(DeliveryError):
    """A request, a setting or an archive was turned down; a retry without a change would be as well."""


class Corrupt(DeliveryError):
    """The bytes differ from what the store or the donefile promised, or the archive is damaged."""


class PublicationFailed(DeliveryError):
    """The host did not let a release become the live one.

    The release that was live still is, unless the message says that it could not be put back.
    """


class ReloadRefused(DeliveryError):
    """The server failed to load the release or never said that it serves it."""


class ReloadUnanswered(ReloadRefused):
    """The server was told to load the release and may still be at it.

    It must not be told the same again within one try of the task; the next try does.
    """


PERMANENT: tuple[type[DeliveryError], ...] = (Refused, Corrupt)
"""Faults that a retry cannot mend: the caller fails at once."""


def is_transient(fault: BaseException) -> bool:
    """Whether a retry may succeed with what came so far: the store was to blame, or the process was to end."""
    return isinstance(fault, (StoreUnreachable, NotThereYet)) or not isinstance(fault, Exception)
