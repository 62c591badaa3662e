"""An address that belongs to something else than a Ray cluster is refused in seconds, in words."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch

import bitwright as bw
from bitwright.engine.address import check_address
from bitwright.engine.progress import Progress
from bitwright.errors import ClusterError


@contextmanager
def listening(answer: bytes | None):
    """A server that says one thing to whoever connects; None: nothing, and it stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            try:
                line, _ = server.accept()
            except OSError:
                return
            held.append(line)
            line.recv(100)
            if answer is not None:
                line.sendall(answer)
                line.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for line in held:
            line.close()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"", b"x"]
)
def test_a_port_of_something_else(answer):
    with listening(answer) as address, pytest.raises(ClusterError, match=f"{address} is no Ray"):
        check_address(address)


def test_a_port_that_stays_silent_is_given_up():
    started = time.monotonic()
    with listening(None) as address, pytest.raises(ClusterError, match=r"within 0\.5 s"):
        check_address(f"ray://{address}", patience=0.5)
    assert time.monotonic() - started < 5


def test_a_port_where_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ClusterError, match="Connection refused"):
        check_address(address)


def test_a_server_that_speaks_http2_passes():
    # SETTINGS with MAX_CONCURRENT_STREAMS, as RFC 9113 draws it.
    settings = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes((0, 3, 0, 0, 0, 100))
    with listening(settings) as address:
        check_address(address)
    check_address(4)
    check_address("ray")


def test_it_is_asked_before_any_work():
    seen = []
    net = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    with listening(b"HTTP/1.1 400\r\n\r\n") as address, pytest.raises(ClusterError):
        bw.quantize(
            net,
            torch.randn(8, 4),
            recipe="fixed",
            workers=address,
            progress=Progress([seen.append]),
        )
    assert not seen
