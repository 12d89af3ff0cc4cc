"""Listening sockets, and what is said when there is none to be had."""

from __future__ import annotations

import errno
import socket

from alexnet_deploy.errors import InputError

_BACKLOG = 2048


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError when the port is taken or the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"the host {host!r} is not known: {error.strerror}", expected="an address of this machine") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise port_taken(host, port) from error
        raise InputError(
            f"cannot listen on {joined(host, port)}: {error.strerror}", expected="a free port of this machine", fix="--port 0"
        ) from error
    return listening


def port_taken(host: str, port: int) -> InputError:
    return InputError(f"port {port} on {host} is taken", expected="a free port", fix="--port 0 and --grpc-port 0 take free ones")


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
