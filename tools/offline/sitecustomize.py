"""Put on PYTHONPATH of a chapter's kernel: every Python process of the chapter refuses the network, and says so.

A chapter claims on its card that it needs no network. Processes of one machine may talk to each other (gloo does).
Each process also writes down which files of the package it reads, modules and data alike: `tools.judge` compares them
with what the chapter's imports reach.
"""

import ipaddress
import os
import socket
import sys

_PACKAGE, _ACCOUNT = os.environ.get("COURSE_PACKAGE", "") + os.sep, os.environ.get("COURSE_READ", "")
_noted: set[str] = set()

_OWN = {
    "",
    "localhost",
    "localhost.localdomain",
    "ip6-localhost",
    socket.gethostname(),
    socket.gethostname().split(".")[0],
}


def _local(host: object) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or not isinstance(name, str) or name in _OWN:
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or name in _own_addresses


def _note(path: object) -> None:
    if isinstance(path, str) and path.startswith(_PACKAGE) and path not in _noted and _ACCOUNT:
        _noted.add(path)
        account = os.open(_ACCOUNT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(account, f"{path}\n".encode())
        os.close(account)


def _guard(event: str, args: tuple) -> None:
    host = port = None
    if event == "open":
        _note(args[0])
        return
    if event == "socket.getaddrinfo":
        host, port = args[0], args[1]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):  # a str or bytes is a Unix socket
        host, port = args[1][0], args[1][1]
    else:
        return
    if not _local(host):
        raise PermissionError(
            f"this notebook asked for {host}:{port}, but a chapter must run without a network: use the embedded data "
            '(scale="embedded") or a model built from a random seed'
        )


try:  # the machine's own addresses, by which its processes may find one another
    _own_addresses = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
except OSError:
    _own_addresses = set()
sys.addaudithook(_guard)
