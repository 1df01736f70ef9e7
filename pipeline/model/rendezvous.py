"""Where ranks meet: behind the loopback interface if all of them are on one machine."""

import ipaddress
import os
import socket
from datetime import timedelta

import torch.distributed as dist


def local_store(timeout: timedelta, wait_for_all: bool = True) -> dist.Store | None:
    """The store through which the ranks of one machine meet, which no other machine can reach.

    Torch's own store listens on all interfaces, whatever `MASTER_ADDR` says, and lets everybody read and write.

    Args:
        timeout: How long a rank waits for the others.
        wait_for_all: Whether the first rank waits here until all have come.

    Returns:
        None where torch should make its own: ranks of several machines, and a rank that nobody told where to meet.

    Raises:
        OSError: If another process listens on the port.
    """
    named = [os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")]
    if None in named:
        return None
    address, port, rank, world_size = (str(value) for value in named)
    try:
        if not ipaddress.ip_address(socket.gethostbyname(address)).is_loopback:
            return None
    except OSError:  # a name that nothing resolves: torch says so
        return None
    listener = socket.create_server((address, int(port))).detach() if rank == "0" else None
    return dist.TCPStore(
        address,
        int(port),
        int(world_size),
        rank == "0",
        timeout,
        wait_for_workers=wait_for_all,
        multi_tenant=False,
        master_listen_fd=listener,
    )
