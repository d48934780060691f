"""A PostgreSQL URL as libpq reads it, in the words of our driver."""

import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

ANSWER_WITHIN_S = 15.0
"""How long PostgreSQL may take to be connected to, and then for any answer."""
SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


def connect_arguments(url: str) -> dict[str, Any]:
    """What the driver wants of a `postgresql://` URL as libpq reads it (PostgreSQL documentation, section 34.1.1.2).

    Raises:
        ValueError: something in it is not known; the words hold no password.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError("must begin with postgresql://")
    if not parts.path.strip("/"):
        raise ValueError("names no database; write it like postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if unknown := options.keys() - {"host", "sslmode", "sslrootcert"}:
        raise ValueError(f"has the parameter {min(unknown)}; known are host, sslmode and sslrootcert")
    found: dict[str, Any] = {
        "user": unquote(parts.username or "") or "throughline",
        "password": unquote(parts.password) if parts.password is not None else None,
        "database": unquote(parts.path.strip("/")),
        "port": _port_of(parts),
        "timeout": ANSWER_WITHIN_S,
        "application_name": "throughline",
    }
    folder = options.get("host", "")
    if folder.startswith("/"):
        return {**found, "unix_sock": f"{folder}/.s.PGSQL.{found['port']}", "ssl_context": False}
    return {**found, "host": folder or parts.hostname or "localhost", "ssl_context": _ssl_of(options)}


def _port_of(parts: SplitResult) -> int:
    try:
        return parts.port or 5432
    except ValueError:
        # What stands there may be half a password: it is not shown.
        raise ValueError("has no number as its port; in a password, write / as %2F, @ as %40, : as %3A") from None


def _ssl_of(options: dict[str, str]) -> ssl.SSLContext | bool | None:
    """None: encrypted where the server can; True: encrypted, to whomever; a context: to whom the certificate names."""
    mode = options.get("sslmode", "prefer")
    if mode not in SSL_MODES:
        raise ValueError(f"has an sslmode that is none of {', '.join(sorted(SSL_MODES))}")
    if mode in {"allow", "prefer"}:
        return None
    if mode in {"disable", "require"}:
        return mode == "require"
    context = ssl.create_default_context(cafile=options.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    return context
