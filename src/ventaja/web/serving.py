"""Serves an app on this machine, or on a network where its address and TLS files are given."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from ventaja.errors import ConfigError
from ventaja.web.safety import Site


def shared_site(address: str, name: str | None, port: int) -> Site:
    """For others on a network, over TLS, by this address and by `name` if there is one.

    Raises ConfigError for an address that means every network, or is none.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as error:
        raise ConfigError(
            f"share.address: {address!r} is not an IP address of this machine, such as 192.168.1.20. A name goes to share.name."
        ) from error
    if ip.is_unspecified or ip.is_multicast:
        raise ConfigError(
            f"share.address: {address} would be every network at once. Name the one address to be reached by."
        )
    return Site(address=address, port=port, names=(*([name] if name else []), address), secure=True)


def serve(app: ASGIApp, site: Site, *, certificate: Path | None = None, key: Path | None = None) -> None:
    """Runs until it is interrupted. No access log is written, so that no request leaves a trace.

    Raises ConfigError if the port is taken, or the TLS files cannot be used.
    """
    if site.secure:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(str(certificate), str(key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"share.certificate, share.key: {certificate} and {key} cannot be used: {error}. They are PEM files that belong "
                "together, the key without a passphrase."
            ) from error
    config = uvicorn.Config(
        app,
        host=site.address,
        port=site.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=True,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=3,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
    )
    try:
        listening = config.bind_socket()
    except SystemExit as error:
        raise ConfigError(
            f"port {site.port} of {site.address} cannot be used: another page may be open there. Choose another with --port."
        ) from error
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
