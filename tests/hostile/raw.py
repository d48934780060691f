"""HTTP as octets, for requests that no client library would send."""

import socket


def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """What the face answers to exactly these octets: the status, and all of it."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(request)
        while chunk := wire.recv(65_536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer


def head(method: str, target: str, *lines: bytes) -> bytes:
    """A request's head that asks for one answer only."""
    first = f"{method} {target} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([first, b"Host: talk.example.org", b"Connection: close", *lines, b"", b""])
