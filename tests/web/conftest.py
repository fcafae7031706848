"""A server per test."""

import pytest
from ranking_server import Server  # type: ignore[import-not-found]

from ventaja.rankings import Store


@pytest.fixture
def serve(tmp_path):
    """`serve(items, *flags)` starts a server with these items."""
    servers = []

    def start(items, *flags, **options):
        path = tmp_path / f"r{len(servers)}.db"
        with Store(path) as store:
            store.add(items)
        server = Server(path, "--order", "given", *flags, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()
