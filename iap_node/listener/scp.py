"""The life of the SCP: bind, serve, stop. Wired by `iap-node listen`.

pynetdicom does the upper layer: negotiation, TLS, timers, DIMSE. `receiver` moves the bytes of C-STORE, `handlers`
decides, `intake` files.

What is bounded: the associations, in all and of one peer (`places`; a further one is rejected as "local limit
exceeded"), the connections that have not got so far, in all and from one address (`NEGOTIATING`), the time a
connection may take for TLS and for its A-ASSOCIATE-RQ (`association_timeout_s`), the time it may be silent
(`idle_timeout_s`) or slow (`limits.Pace`), the size of an instance (`limits`), and the connections that wait to be
accepted (`BACKLOG`). An association holds one buffer, however large its instances and PDUs are, and files one instance
at a time, so that who sends more gets its share of processor and disk per association and no more.

Several processes may serve one port: they accept from one listening socket, which `iap-node listen` made, and share
one table of places.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import Any, cast

import structlog
from pynetdicom import AE, _config
from pynetdicom.transport import ThreadedAssociationServer

from iap_node.config import ListenerConfig, TlsConfig
from iap_node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from iap_node.errors import ConfigError
from iap_node.listener.admission import VERIFICATION, Admission
from iap_node.listener.associations import Associations
from iap_node.listener.commitment import Commitments
from iap_node.listener.handlers import Handlers, OnRelease
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskReserve, Limits
from iap_node.listener.places import Places
from iap_node.listener.query import Finder
from iap_node.listener.receiver import StoreRequestHandler
from iap_node.listener.shared_port import BACKLOG, SharedPort, why_not_bound

NEGOTIATING = 64  # connections of a process that are no association: in a TLS handshake, in negotiation, being rejected
NEGOTIATING_OF_ONE = NEGOTIATING // 2  # from one address, so that whoever stays silent keeps only itself out
# Processes that share a port leave a new connection the longer to the others the more they have themselves: senders
# are few and stay long, so that chance alone (as SO_REUSEPORT has it) would put them on one process too often.
DEFERENCE_S = 0.001  # per connection that the process has
MOST_DEFERENCE_S = 0.01
POLL_S = 0.1  # how soon the accepting thread notices that it is to stop

log = structlog.get_logger("listener")


class StoreScp:
    """The listener: an SCP of storage, by way of an `Intake`, of verification, and of what else it is given.

    Parameters
    ----------
    on_release
        See `Handlers`.
    shared
        What this process shares with others that serve the same port; closed by `stop`. None: it serves it alone.
    disk
        See `Handlers`.
    commitments, finder
        See `Handlers`.
    """

    def __init__(
        self,
        config: ListenerConfig,
        intake: Intake,
        on_release: OnRelease | None = None,
        shared: SharedPort | None = None,
        disk: DiskReserve | None = None,
        commitments: Commitments | None = None,
        finder: Finder | None = None,
    ) -> None:
        self._config = config
        self._shared = shared
        self._places = (
            Places(config.max_associations, config.max_associations_per_peer) if shared is None else shared.places
        )
        self._associations = Associations(self._places)
        self._handlers = Handlers(
            intake, Admission(config), self._associations, Limits.of(config), on_release, disk, commitments,
            finder,
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Lock()

    @property
    def port(self) -> int:
        """The port that is listened on; with `listener.port: 0` the one the system gave.

        Raises
        ------
        RuntimeError
            The listener is not started.
        """
        if self._server is None:
            raise RuntimeError("the listener is not started")
        return int(self._server.server_address[1])

    @property
    def open_associations(self) -> int:
        """How many associations are open."""
        return self._associations.count()

    def start(self) -> None:
        """Bind the port and serve in threads; returns when associations are accepted.

        Raises
        ------
        ConfigError
            The port or address cannot be bound, or the certificates cannot be used. The text names the key.
        """
        # pynetdicom describes every PDU for its own log unless told not to; ours has what is needed, and no
        # data sets.
        _config.LOG_HANDLER_LEVEL = "none"
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        logging.getLogger("pynetdicom").setLevel(logging.WARNING)
        config = self._config
        tls = server_tls_context(config.tls) if config.tls.enabled else None
        ae = AE(ae_title=config.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.add_supported_context(VERIFICATION)  # storage contexts follow what each sender proposes: `on_requested`
        ae.maximum_associations = sys.maxsize  # `places` counts: pynetdicom would count those in negotiation, too
        ae.maximum_pdu_size = config.max_pdu_bytes
        ae.acse_timeout = config.association_timeout_s
        ae.network_timeout = config.idle_timeout_s
        try:
            server = ae.make_server(
                (config.bind, config.port),
                evt_handlers=self._handlers.bindings(),
                server_class=_Server,
                request_handler=partial(StoreRequestHandler, self._handlers),  # the fast store path
                config=config,
                tls=tls,
                shared=None if self._shared is None else self._shared.socket,
                associations=self._associations,
            )
        except OSError as error:
            raise ConfigError(why_not_bound(config, error)) from error
        self._server = cast(_Server, server)
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": POLL_S}, name="listener", daemon=True
        )
        self._thread.start()
        log.info(
            "listening", ae_title=config.ae_title, address=config.bind, port=self.port, tls=tls is not None,
            calling_ae_titles=list(config.calling_ae_titles), addresses=list(config.addresses),
        )  # fmt: skip

    def stop(self) -> None:
        """Stop accepting, let running stores finish for at most `stop_timeout_s`, then end all associations.

        What is not finished by then was not acknowledged: its sender sends it again. Stopping twice, or
        before `start`, does nothing.
        """
        with self._stopping:
            server, self._server = self._server, None
            if server is None or self._thread is None:
                return
            server.stop()
            self._thread.join()
            deadline_s = time.monotonic() + self._config.stop_timeout_s
            n_aborted = 0
            while finished := self._associations.wait_for_finished(deadline_s):
                for assoc in finished:
                    assoc.abort()
                    self._associations.closed(assoc)
                    n_aborted += 1
            for assoc in server.active_associations:  # those that were not established yet
                assoc.abort()
            self._places.close()
            log.info("stopped listening", n_aborted_associations=n_aborted)


class _Server(ThreadedAssociationServer):
    """Accepts connections: bounded in number, without delays, and with the TLS handshake in their own
    threads."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(
        self,
        *args: Any,
        config: ListenerConfig,
        tls: ssl.SSLContext | None,
        shared: socket.socket | None,
        associations: Associations,
        **kwargs: Any,
    ) -> None:
        self._config = config
        self._tls = tls
        self._shared = shared
        self._associations = associations
        self._turn = threading.Lock()
        self._starting: Counter[str] = Counter()  # addresses of connections that have no association yet
        self._stopped = False
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind the port, unless the socket is shared and bound already."""
        if self._shared is None:
            super().server_bind()
            return
        cast(socket.socket, self.socket).close()
        self.socket = self._shared
        self.socket.setblocking(False)  # another process may be the first to accept
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; TLS comes later, so that a silent peer cannot keep others from being
        accepted."""
        if self._shared is not None:
            time.sleep(min(self._n_connections() * DEFERENCE_S, MOST_DEFERENCE_S))
        connection, address = cast(socket.socket, self.socket).accept()
        # Senders wait for each C-STORE-RSP: Nagle's algorithm against their delayed acknowledgement costs 40
        # ms each.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # pynetdicom's own idle timer does not run inside recv() and send().
        connection.settimeout(self._config.idle_timeout_s)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection; counts it."""
        address = str(client_address[0])
        negotiating = Counter(
            str(assoc.requestor.address) for assoc in self.active_associations if not assoc.is_established
        )
        with self._turn:
            negotiating += self._starting
            if negotiating.total() < NEGOTIATING and negotiating[address] < NEGOTIATING_OF_ONE:
                self._starting[address] += 1
                return True
        log.warning("connection closed: too many are in negotiation", source_address=address)
        return False

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, then hand the connection to an association; runs in the connection's own thread."""
        try:
            if self._tls is not None:
                request.settimeout(self._config.association_timeout_s)
                request = self._tls.wrap_socket(request, server_side=True)
                request.settimeout(self._config.idle_timeout_s)
            if self._stopped:
                self.shutdown_request(request)
                return
            super().finish_request(request, client_address)
        finally:
            with self._turn:
                self._starting[str(client_address[0])] -= 1
                self._starting += Counter()  # without those that are at zero

    def service_actions(self) -> None:
        """Between connections: what ended without telling."""
        super().service_actions()
        self._associations.forget_ended()

    def _n_connections(self) -> int:
        with self._turn:
            return self._starting.total() + len(self.active_associations)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log why a connection came to nothing."""
        error = sys.exc_info()[1]
        log.warning(
            "connection failed before the association", source_address=str(client_address[0]),
            error=str(error), tls=self._tls is not None,
        )  # fmt: skip

    def stop(self) -> None:
        """Accept no more; blocks until the accepting thread has noticed."""
        self._stopped = True
        socketserver.BaseServer.shutdown(self)
        if self._shared is None:
            self.server_close()
        else:
            self._shared.close()  # and no shutdown(2), which would end it for the other processes too


def server_tls_context(config: TlsConfig) -> ssl.SSLContext:
    """TLS of an acceptor: TLS 1.2 or newer (PS3.15 B.9, BCP 195), a client certificate when `peer_ca` is set.

    Raises
    ------
    ConfigError
        A file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if config.certificate is None or config.private_key is None:
            raise ConfigError("listener.tls: certificate and private_key are not set")
        context.load_cert_chain(config.certificate, config.private_key, password=_no_password)
    except OSError as error:  # SSLError is one
        raise ConfigError(
            f"listener.tls: certificate {config.certificate} with private_key {config.private_key}: {error}; "
            "both must be PEM, belong together, and the key must have no password"
        ) from error
    if config.peer_ca is not None:
        try:
            context.load_verify_locations(config.peer_ca)
        except OSError as error:
            raise ConfigError(f"listener.tls.peer_ca: {config.peer_ca}: {error}; it must be PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    raise OSError("the private key has a password")
