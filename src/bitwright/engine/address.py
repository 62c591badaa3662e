"""Whether what listens at an address can be a Ray cluster, asked before any work and in seconds.

Ray itself tries for minutes, without a word, where the port belongs to something else. Its servers
speak gRPC, that is HTTP/2: whoever does answers the client's preface with a SETTINGS frame.

Reference: RFC 9113, sections 3.4 (connection preface), 4.1 (frames) and 6.5 (SETTINGS).
"""

from __future__ import annotations

import os
import socket

from bitwright.errors import ClusterError

PATIENCE_S = 10.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER, _SETTINGS = 9, 4
# An empty SETTINGS frame: length 0, type 4, no flags, stream 0.
_OWN_SETTINGS = bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))


def check_address(address: int | str, patience: float = PATIENCE_S) -> None:
    """Whether something that may be a Ray cluster answers; numbers and `ray` pass.

    Args:
        address: HOST:PORT or ray://HOST:PORT.
        patience: seconds that it may take.

    Raises:
        ClusterError: nothing listens there, or it is something else.
    """
    if isinstance(address, int) or ":" not in address:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    remedy = "Start one with 'ray start --head', or give a number of local processes to --workers."
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience) as line:
            # With RAY_USE_TLS only a client with the cluster's certificate gets an answer.
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or _speaks_http2(line, patience):
                return
    except TimeoutError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} within {patience:g} s. {remedy}"
        ) from error
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} ({error}). {remedy}") from error
    raise ClusterError(f"what listens at {address} is no Ray cluster. {remedy}")


def _speaks_http2(line: socket.socket, patience: float) -> bool:
    line.settimeout(patience)
    line.sendall(_PREFACE + _OWN_SETTINGS)
    header = b""
    while len(header) < _HEADER:
        part = line.recv(_HEADER - len(header))
        if not part:
            return False
        header += part
    return header[3] == _SETTINGS and header[5:] == bytes(4)
