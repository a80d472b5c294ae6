"""What goes wrong in stores and servers that speak HTTP, as `requests` tells it, in the words of `errors.py`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable

BROKEN_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError)
"""Ends of a connection, as against a certificate or a protocol that is no good."""

TURNED_AWAY_BY_PROXY = re.compile(r"Tunnel connection failed: 40[37]\b")

UNUSABLE_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
)


@contextmanager
def faults_of_requests(
    doing: str, *, other_end: str = "store", unreachable: type[Exception] = StoreUnreachable
) -> Iterator[None]:
    """Translate the exceptions of a `requests` session.

    :param doing: begins the messages.
    :param other_end: what they call the one that is asked.
    :param unreachable: raised where it did not answer, or the transfer broke off.
    :raises Refused: the address or the certificates are no good.
    """
    # the causes are the innermost, since those around them repeat the address with its query, which may hold a token
    try:
        yield
    except UNUSABLE_ADDRESS as error:
        # the error's own words repeat the address, credentials included
        raise Refused(
            f"{doing}: the address cannot be used ({type(error).__name__}); check the connection's host and the path"
        ) from None
    except (requests.exceptions.InvalidHeader, UnicodeError):
        # the error's own words repeat the header, which may be a password or a token
        raise Refused(
            f"{doing}: the login, the password, a header or the name cannot be sent over HTTP; look for line breaks "
            "and for characters beyond Latin-1 in the connection, and for bytes in the name that are no UTF-8"
        ) from None
    except requests.exceptions.SSLError as error:
        if isinstance(_root_cause(error), BROKEN_TLS):
            raise unreachable(f"{doing}: TLS broke off ({_words(error)}); try again") from _root_cause(error)
        raise Refused(f"{doing}: TLS was refused ({_words(error)}); check the certificates") from _root_cause(error)
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        if TURNED_AWAY_BY_PROXY.search(str(_root_cause(error))):
            raise Refused(
                f"{doing}: the proxy refused ({_words(error)}); check its login, and what it lets through"
            ) from _root_cause(error)
        raise unreachable(
            f"{doing}: the {other_end} cannot be reached ({_words(error)}); check the connection's host and port, "
            f"and whether the {other_end} runs"
        ) from _root_cause(error)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise unreachable(f"{doing}: the transfer broke off ({_words(error)}); try again") from _root_cause(error)
    except OSError as error:
        # what the network does comes as the clients' own faults: this is a file of certificates that is missing
        raise Refused(f"{doing}: {error}; check the connection's settings for TLS") from error


def without_credentials(url: str) -> str:
    """Give an address without the login and the password that somebody may have put into it, and without its query.

    :raises ValueError: it is no URL.
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _root_cause(error: BaseException) -> BaseException:
    """Find the fault that started it; the clients' own wrap it several times, each in a way of its own."""
    wrapped = [getattr(error, "reason", None), *error.args, error.__cause__]
    inner = next((part for part in wrapped if isinstance(part, BaseException)), None)
    return error if inner is None else _root_cause(inner)


def _words(error: BaseException) -> str:
    cause = _root_cause(error)
    name, words = type(cause).__name__, str(cause)
    return words if words.startswith(name) or (words and isinstance(cause, OSError)) else f"{name} {words}".rstrip()
