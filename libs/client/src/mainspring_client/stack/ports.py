"""Ports of the local stack: chosen once, kept from one start to the next.

They lie below the range from which the kernel takes ports for outgoing connections, so that nobody takes a kept port
by chance while the stack is down.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from mainspring_svckit.errors import PreconditionFailed

_LOWEST = 20_000
_KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 2_000


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # Connections of the stack before may linger in TIME_WAIT; those are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            if err.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def allocate(
    names: Iterable[str], kept: Mapping[str, int], fixed: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """A port for each name, and notices about kept ones that are taken now.

    Args:
        names: What needs a port.
        kept: Ports of the start before.
        fixed: Ports that the caller insists on.

    Raises:
        PreconditionFailed: PORT_TAKEN, something else listens on a fixed port; PORT_NAME_UNKNOWN, `fixed` names
            something that has no port.
    """
    wanted, notices = list(names), list[str]()
    if unknown := sorted(set(fixed) - set(wanted)):
        raise PreconditionFailed(
            "PORT_NAME_UNKNOWN", f"no port is named {', '.join(unknown)}; there are {', '.join(wanted)}"
        )
    ports: dict[str, int] = {}
    for name, port in fixed.items():
        if not is_free(port) or port in ports.values():
            raise PreconditionFailed(
                "PORT_TAKEN", f"port {port} for {name} is taken; choose another, or stop what listens there"
            )
        ports[name] = port
    for name in wanted:
        port = kept.get(name, 0)
        if name in ports or not port:
            continue
        if is_free(port) and port not in ports.values():
            ports[name] = port
        else:
            notices.append(f"port {port} of {name} is taken by another program now; {name} gets a new one")
    for name in wanted:
        if name not in ports:
            ports[name] = _new_port({*ports.values(), *kept.values()})
    return ports, notices


def _new_port(taken: set[int]) -> int:
    highest = _kernel_lowest() - 1
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, highest)  # noqa: S311 - not a secret.
        if port not in taken and is_free(port):
            return port
    raise PreconditionFailed("NO_FREE_PORT", f"no free port between {_LOWEST} and {highest}; stop something first")


def _kernel_lowest() -> int:
    try:
        lowest = int(_KERNEL_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        lowest = 32_768
    return lowest if lowest > _LOWEST + 2_000 else 60_000
