"""What the processes that serve one port have in common: a listening socket, and the table of places.

`iap-node listen` opens it and starts the processes, each of which inherits it; `scp` accepts from it. The port is bound
once, by one socket: a second node that names the same port is told so, a port that the system chose is the same for
all, and connections that wait to be accepted when a process dies are accepted by the others.
"""

from __future__ import annotations

import errno
import socket

from pynetdicom.transport import AddressInformation

from iap_node.config import ListenerConfig
from iap_node.errors import ConfigError
from iap_node.listener.places import Places

BACKLOG = 128  # connections the kernel keeps until we accept them


class SharedPort:
    """A port that several processes serve.

    Parameters
    ----------
    listening
        The socket, bound and listening.
    """

    def __init__(self, listening: socket.socket, places: Places) -> None:
        self.socket = listening
        self.places = places

    @classmethod
    def open(cls, config: ListenerConfig) -> SharedPort:
        """Bind the port; from now on connections wait to be accepted.

        Raises
        ------
        ConfigError
            The port or address cannot be bound. The text names the key.
        """
        try:
            address = AddressInformation(config.bind, config.port)
            listening = socket.create_server(
                (address.address, config.port), family=address.address_family, backlog=BACKLOG
            )
        except OSError as error:
            raise ConfigError(why_not_bound(config, error)) from error
        return cls(listening, Places(config.max_associations, config.max_associations_per_peer))

    @classmethod
    def inherit(cls, config: ListenerConfig, listening: int, places: int) -> SharedPort:
        """The same in a process that was started with `handles`."""
        return cls(
            socket.socket(fileno=listening),
            Places(config.max_associations, config.max_associations_per_peer, places),
        )

    @property
    def handles(self) -> tuple[int, int]:
        """What a process must inherit to serve this port."""
        return self.socket.fileno(), self.places.handle

    @property
    def number(self) -> int:
        """The number of the port; with `listener.port: 0` the one the system gave."""
        return int(self.socket.getsockname()[1])

    def end(self) -> None:
        """Accept no more connections, in no process."""
        self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it; the other processes go on."""
        self.socket.close()
        self.places.close()


def why_not_bound(config: ListenerConfig, error: OSError) -> str:
    """Why a port cannot be listened on, and what to do."""
    where = f"listener: cannot listen on {config.bind} port {config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: something else does; stop it or set listener.port to another one"
    if error.errno == errno.EACCES:
        return f"{where}: ports below 1024 need a privilege; set listener.port to 11112, for example"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{where}: this machine has no such address; correct listener.bind"
    return f"{where}: {error}; correct listener.bind or listener.port"
