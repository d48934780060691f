"""Ids that name their shard, and references that people can spell."""

import hashlib
import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so that nothing is misread or misheard."""
REFERENCE_LENGTH = 5
SHARDS_MAX = 64


def new_id(kind: str, shard: int, now_ms: int) -> str:
    """A sortable id of the form `v0-01JD...`: kind letter, shard, 48 bits of time, 60 random bits.

    Raises:
        ValueError: `kind` is not one letter, or the shard is out of range.
    """
    if len(kind) != 1 or not kind.isalpha() or not 0 <= shard < SHARDS_MAX:
        raise ValueError(f"no id of kind {kind!r} in shard {shard}")
    return f"{kind}{shard}-{_base32(now_ms, 10)}{_base32(secrets.randbits(60), 12)}"


def shard_of(identity: str) -> int:
    """The shard an id or an attempt's token names.

    Raises:
        ValueError: it is no id of ours.
    """
    head, dash, tail = identity.partition("-")
    if not dash or not tail or len(head) < 2 or not head[0].isalpha() or not head[1:].isdecimal():
        raise ValueError(f"not an id: {identity[:40]!r}")
    shard = int(head[1:])
    if shard >= SHARDS_MAX:
        raise ValueError(f"not an id: {identity[:40]!r}")
    return shard


def shard_for(address: str, shards: int) -> int:
    """Where a new customer with this first address lives, so that people who share an address share a shard."""
    return int.from_bytes(hashlib.sha256(address.encode()).digest()[:4], "big") % shards


def hidden_id(shard: int, endpoint: str, place: str) -> str:
    """The hidden conversation that holds what came from a place over an endpoint; always the same one."""
    digest = hashlib.sha256(f"{endpoint}|{place}".encode()).hexdigest()[:22].upper()
    return f"h{shard}-{digest}"


def new_reference() -> str:
    """A short random reference; the store claims it, or asks for another."""
    return "".join(secrets.choice(ALPHABET) for _ in range(REFERENCE_LENGTH))


def read_reference(typed: str) -> str:
    """What a person typed, with the letters people confuse put right."""
    return typed.upper().replace("I", "1").replace("L", "1").replace("O", "0").replace("U", "V")


def _base32(number: int, digits: int) -> str:
    out = ""
    for _ in range(digits):
        number, rest = divmod(number, 32)
        out = ALPHABET[rest] + out
    return out
