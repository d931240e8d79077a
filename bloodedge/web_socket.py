"""The device's and the fleet's page: the socket it listens on, its TLS and its URL."""

import errno
import socket
import ssl
from pathlib import Path

from bloodedge.errors import UsageError


def server_tls(certificate: Path | None, key: Path | None, names: tuple[str, str]) -> ssl.SSLContext | None:
    """TLS with a certificate and its key, None without one; names: of the options, for UsageError."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{names[0]} {certificate} and {names[1]} {key} cannot be used ({error.strerror or error}); give a PEM"
            " certificate and the key that belongs to it."
        ) from error
    return context


def listen(host: str, port: int, names: tuple[str, str]) -> socket.socket:
    """A socket that listens; names: of the options for host and port, for UsageError."""
    no_address = f"{names[0]} {host} is not an address of this machine; correct it."
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(no_address) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        reasons = {
            errno.EADDRINUSE: f"Port {port} of {host} is in use; stop what uses it, or choose another with {names[1]}.",
            errno.EACCES: f"Port {port} of {host} needs root rights; choose one above 1023 with {names[1]}.",
            errno.EADDRNOTAVAIL: no_address,
        }
        other = f"{host} port {port} cannot be listened on ({error.strerror}); change {names[0]}."
        raise UsageError(reasons.get(error.errno or 0, other)) from error
    return listening


def url_of(host: str, listening: socket.socket, *, tls: bool) -> str:
    """The URL of a listening socket; host: as people gave it."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{listening.getsockname()[1]}/"
