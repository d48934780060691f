"""Settings with every provider, as somebody's production has them, for the drill to rehearse."""

from pathlib import Path

import pytest

from router.settings import Settings, load_settings

REAL = """
organisation = "Colis Exemple"
default_locale = "fr"
default_country = "FR"
currency = "EUR"
public_url = "https://talk.colis.example"
redis_url = "redis://:hush-redis@redis.colis.example:6399/0"
broker_url = "redis://:hush-broker@broker.colis.example:6398/1"
archive_url = "postgresql://keeper:hush-archive@archive.colis.example:5499/closed"
secret = "${REAL_SECRET}"
control_hosts = ["one.colis.example:443", "two.colis.example:443"]

[web]
port = 8181

[failover]
channel_order = ["email", "sms", "chat", "phone"]
park_s = 17.0

[messages]
hold_while_down_s = 7.0

[health]
hold_s = 11.0

[[endpoints]]
id = "email/support"
provider = "smtp"
rate_per_s = 3.0
hold_s = 21.0
canary = "echo@colis.example"
canary_every_s = 33.0
host = "mail.colis.example"
port = 2525
tls = "starttls"
username = "support-login@colis.example"
password = "hush-mail"
from_address = "support@colis.example"
from_name = "Colis: le service"
reply_domain = "reply.colis.example"
connections_max = 4
imap = { host = "imap.colis.example", port = 9933, username = "imap-login", password = "hush-imap" }

[[endpoints]]
id = "email/oneway"
provider = "smtp"
host = "mail2.colis.example"
from_address = "noreply@colis.example"

[[endpoints]]
id = "sms/acme"
provider = "smpp"
price = "0.07"
window = 7
host = "smpp.acme.example"
port = 2776
system_id = "colis-smpp"
password = "hush-sms"
sender = "+33644601234"
canary = "+33644609999"

[[endpoints]]
id = "sms/oneway"
provider = "smpp"
host = "smpp.other.example"
system_id = "colis-other"
password = "hush-oth"
sender = "ColisEx"

[[endpoints]]
id = "sms/twilio"
provider = "twilio-sms"
account_sid = "AC00000000000000000000000000000abc"
auth_token = "hush-token"
messaging_service_sid = "MG00000000000000000000000000000abc"

[[endpoints]]
id = "sms/letters"
provider = "twilio-sms"
account_sid = "AC00000000000000000000000000000abd"
auth_token = "hush-token-2"
from_number = "ColisLet"

[[endpoints]]
id = "phone/twilio"
provider = "twilio-voice"
rate_per_s = 2.0
account_sid = "AC00000000000000000000000000000def"
auth_token = "hush-voice"
from_number = "+16015550100"
callback_number = "+33644605678"
connect_allowed = ["+33644607777"]
locale = "fr"

[[endpoints]]
id = "chat/shop"
provider = "webchat"
title = "Colis en direct"
allowed_origins = ["https://shop.colis.example"]
secret = "hush-chat-hush-chat-hush-chat-hush-chat"
"""


@pytest.fixture(autouse=True)
def own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, no settings in the environment, and a secret that somebody's settings name."""
    monkeypatch.setenv("REAL_SECRET", "hush-" * 10)


@pytest.fixture
def real_text() -> str:
    """The file as its owner wrote it."""
    return REAL


@pytest.fixture
def real(tmp_path: Path) -> Settings:
    """Settings with every provider, in both directions and one."""
    file = tmp_path / "real.toml"
    file.write_text(REAL)
    return load_settings(file)
