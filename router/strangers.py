"""What strangers can make us say: bounded for one address, for one foreign country, and over all."""

import hashlib
from dataclasses import dataclass

import phonenumbers
import structlog

from channels.messages import Address, Channel
from router.core import Core

HOUR_S = 3_600
EARNS = frozenset({phonenumbers.PhoneNumberType.PREMIUM_RATE, phonenumbers.PhoneNumberType.SHARED_COST})
"""Numbers that pay their owner for each call or text: nobody who has proven nothing is answered there."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Strangers:
    """Counts what we say because somebody who has proven nothing asked for it: prompts, codes, confirmations.

    Senders of SMS and mail are forged easily, and each answer costs us and may pay them.

    The hours are fixed ones: around their turn twice the number may go out.
    """

    core: Core

    async def may_hear(self, address: Address) -> bool:
        """Take one of this hour's messages for `address`; False: a limit is reached, or the number earns by it.

        An address over its own limit uses up nothing of its country's, nor a country of what is left for all.
        Raises StoreUnavailable.
        """
        if address.channel is Channel.CHAT:
            return True  # costs nothing, and the chat bounds its own sessions
        limits = self.core.settings.strangers
        country = ""
        if address.channel in {Channel.SMS, Channel.PHONE}:
            country, earns = _country(address.value, self.core.settings.default_country)
            if earns:
                return self._refuse(address, "earns")
        if not await self._take(f"address:{_digest(address)}", limits.per_address_hour_max):
            return self._refuse(address, "address")
        if country and not await self._take(f"country:{country}", limits.per_country_hour_max):
            return self._refuse(address, "country")
        if not await self._take("all", limits.per_hour_max):
            return self._refuse(address, "all")
        return True

    async def _take(self, what: str, at_most: int) -> bool:
        key = f"tl:strangers:{{{what}}}"
        call = self.core.store.redis.call
        await call("SET", key, "0", "NX", "EX", HOUR_S)
        taken = int(await call("INCR", key))
        if taken == 1:
            await call("EXPIRE", key, HOUR_S)  # it may have ended between the two
        return taken <= at_most

    def _refuse(self, address: Address, limit: str) -> bool:
        log.warning("stranger.not_answered", channel=address.channel, limit=limit)
        return False


def _digest(address: Address) -> str:
    return hashlib.sha256(str(address).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _country(value: str, home: str) -> tuple[str, bool]:
    """The foreign country of a number, or empty: it is at home, or no number; and whether it earns its owner."""
    try:
        number = phonenumbers.parse(value, home)
    except phonenumbers.NumberParseException:
        return "", False
    region = phonenumbers.region_code_for_number(number)
    at_home = region == home or (region is None and number.country_code == phonenumbers.country_code_for_region(home))
    earns = phonenumbers.number_type(number) in EARNS
    return "" if at_home else region or f"+{number.country_code}", earns
