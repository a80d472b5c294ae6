"""What the statuses of HTTP say about trying again."""

from __future__ import annotations

BUSY = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505, 511}
"""Statuses by which a server, or a proxy before it, says that the same request may succeed later.

One that is not known, such as the 520 of a proxy, is as 500 (RFC 9110, section 15). Those left out speak of the
request: its method, its version of HTTP, or that somebody has to log in to the network first.
"""
