"""Hosts, ports and URLs from the command line, checked before anything starts."""

import re
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from bloodedge.errors import UsageError
from bloodedge.fleet_messages import Address


def host_and_port(text: str, option: str, *, lowest: int = 1) -> tuple[str, int]:
    """Host and port of HOST:PORT; UsageError for other text. lowest: 0 where the system may choose the port."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_host(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not lowest <= int(port) < 65536:
        raise UsageError(f'{option} takes HOST:PORT, such as 127.0.0.1:8883, and not "{text}".')
    return host, int(port)


def is_host(name: str) -> bool:
    """Whether a name can be looked up, whether or not such a host exists."""
    try:
        return bool(name) and name.isprintable() and bool(name.encode("idna"))
    except UnicodeError:
        return False


def bundle_url(url: str, digest: str) -> str:
    """The URL of an offered bundle; url: where boards reach the server."""
    return f"{url.rstrip('/')}/bundles/{digest}"


def require_url(text: str) -> str:
    """The given URL of the server; UsageError when boards could not fetch a bundle from there."""
    try:
        TypeAdapter(Address).validate_python(bundle_url(text, "0" * 64))
        parts = urlsplit(text)
        host = parts.hostname or ""
        usable = is_host(host) and not is_everywhere(host) and parts.port != 0 and not parts.query + parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f'--url takes where boards reach this server, such as https://HOST:8770, and not "{text}".')
    return text


def is_everywhere(host: str) -> bool:
    """Whether it stands for every address of a machine, such as 0.0.0.0: nobody can connect to it."""
    with suppress(ValueError):
        return ip_address(host).is_unspecified
    return False
