"""Every setting of the router, read from one TOML file and the environment, refused with file, field and remedy."""

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableVariable

from channels.registry import CHANNELS, AnyEndpointSettings
from health.thresholds import DetectorSettings
from router.archive.postgres_url import connect_arguments
from router.control_probe import HOSTS_MAX, read_control_hosts, refuse_providers
from router.domain.catalogues import PACKAGED
from router.domain.ids import SHARDS_MAX
from router.settings_faults import ENVIRONMENT_PREFIX, describe_faults, find_unknown_variables
from router.settings_tables import (
    ArchiveSettings,
    AttachmentSettings,
    DispatchSettings,
    FailoverSettings,
    MessageSettings,
    SandboxTable,
    StrangersSettings,
    WebSettings,
)
from router.store.connecting import check_tls_files, read_address

SETTINGS_FILE = "throughline.toml"
SETTINGS_VARIABLE = "THROUGHLINE_SETTINGS"
PARENT_VARIABLE = "THROUGHLINE_PARENT"
"""Set for the children of a process tree: the pid they belong to."""
SETTINGS_MAX_BYTES = 1_000_000
ELSEWHERE_MAX_BYTES = 64_000
"""Of a value that stands in a file of its own; a certificate with its chain is a tenth of it."""
SECRET_LENGTH_MIN = 32
ENDPOINTS_MAX = 200
PRIVATE_FILE_MODE = 0o600
PRIVATE_FOLDER_MODE = 0o700
REFERENCE_TO_ELSEWHERE = re.compile(r"^\$\{(file:)?([^}]+)\}$")
"""`${NAME}` or `${file:/path}`: a whole value that stands in the environment or in a file of its own."""


class SettingsError(Exception):
    """The settings cannot be used. The text names file, field and remedy, one line for each fault."""


class Settings(BaseSettings):
    """All of it. Frozen; made by `load_settings` alone."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    organisation: str = Field(
        "Example Organisation", min_length=1, max_length=80, description="the name customers know"
    )
    public_url: str = Field("", description="the base URL under which vendors and customers reach the web role")
    default_locale: str = Field("en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$", description="the language where none is known")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="the currency of every price, as ISO 4217 code")
    default_country: str = Field("US", pattern=r"^[A-Z]{2}$", description="the country of numbers without a prefix")
    shards: int = Field(1, ge=1, le=SHARDS_MAX, description="parts the customers are spread over; never lower it")
    redis_url: str | None = Field(None, description="your own Redis or Valkey; without it, `up` starts a private one")
    redis_replicas: int = Field(
        0, ge=0, le=5, description="replicas that must have what was written within a second, or it is not acknowledged"
    )
    broker_url: str | None = Field(None, description="Celery's broker; without it, database 1 beside `redis_url`")
    archive_url: SecretStr = Field(
        SecretStr(""), description="your PostgreSQL for closed conversations; without it, a SQLite file in `data_dir`"
    )
    data_dir: Path = Field(Path("var"), description="the folder of everything durable on disk")
    secret: SecretStr = Field(SecretStr(""), description="what reply tokens and sessions are signed with")
    templates_folder: Path | None = Field(None, description="the folder of your own notice templates")
    control_hosts: tuple[str, ...] = Field(
        (), max_length=HOSTS_MAX, description="host:port of two or more that no provider runs, to tell our outage by"
    )
    web: WebSettings = WebSettings()
    failover: FailoverSettings = FailoverSettings()
    messages: MessageSettings = MessageSettings()
    strangers: StrangersSettings = StrangersSettings()
    health: DetectorSettings = DetectorSettings()
    dispatch: DispatchSettings = DispatchSettings()
    attachments: AttachmentSettings = AttachmentSettings()
    archive: ArchiveSettings = ArchiveSettings()
    sandbox: SandboxTable = SandboxTable()
    endpoints: tuple[AnyEndpointSettings, ...] = Field(
        (), max_length=ENDPOINTS_MAX, description="the endpoints' tables"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @property
    def sandbox_enabled(self) -> bool:
        """Whether the stand-in vendors run: asked for, or nothing real is configured."""
        if self.sandbox.enabled == "auto":
            return not any(endpoint.provider not in {"console", "webchat"} for endpoint in self.endpoints)
        return self.sandbox.enabled

    @field_validator("public_url")
    @classmethod
    def _is_base_url(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is no base URL; write it like https://talk.example.org")
        return url.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _names_a_store(cls, url: str | None) -> str | None:
        if url:
            read_address(url)
            check_tls_files(url)
        return url or None

    @field_validator("broker_url")
    @classmethod
    def _is_no_cluster(cls, url: str | None) -> str | None:
        scheme = urlsplit(url or "").scheme
        if "cluster" in scheme:
            raise ValueError("is a Redis Cluster, which Celery cannot use; name a single Redis, or Sentinel")
        if url and "sentinel" in scheme:
            read_address(url)
        elif url and scheme not in {"redis", "rediss", "redis+socket", "amqp", "amqps"}:
            raise ValueError("must begin with redis://, rediss://, redis+socket://, redis+sentinel:// or amqp://")
        check_tls_files(url or "")
        return url or None

    @field_validator("archive_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            try:
                connect_arguments(url.get_secret_value())
            except OSError as error:
                raise ValueError(f"names an sslrootcert that cannot be read: {error.strerror}") from error
        return url

    @field_validator("secret")
    @classmethod
    def _is_long(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < SECRET_LENGTH_MIN:
            raise ValueError(f"is too short to sign with; use at least {SECRET_LENGTH_MIN} random characters")
        return secret

    @field_validator("templates_folder")
    @classmethod
    def _exists(cls, folder: Path | None) -> Path | None:
        try:
            is_there = folder is None or folder.is_dir()
        except OSError as error:
            raise ValueError(f"names a folder that cannot be looked at: {error.strerror}") from error
        if not is_there:
            raise ValueError("names a folder that does not exist; create it, or remove the setting")
        return folder

    @field_validator("control_hosts")
    @classmethod
    def _are_control_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        read_control_hosts(hosts)
        return hosts

    @field_validator("endpoints")
    @classmethod
    def _ids_fit(cls, endpoints: tuple[AnyEndpointSettings, ...]) -> tuple[AnyEndpointSettings, ...]:
        seen: set[str] = set()
        for endpoint in endpoints:
            channel = CHANNELS[endpoint.provider]
            if not endpoint.id.startswith(f"{channel}/"):
                raise ValueError(f"have {endpoint.id} with {endpoint.provider}: its id must begin with {channel}/")
            if endpoint.id in seen:
                raise ValueError(f"have the id {endpoint.id} twice; give each table an id of its own")
            seen.add(endpoint.id)
        return endpoints

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if self.attachments.file_max_bytes > self.attachments.total_max_bytes:
            raise ValueError("[attachments] file_max_bytes exceeds total_max_bytes; lower the first or raise the other")
        if self.broker_url is None and "+cluster" in urlsplit(self.redis_url or "").scheme:
            raise ValueError(
                "broker_url must be set beside a Redis Cluster, which Celery cannot use; name a single Redis"
            )
        refuse_providers(read_control_hosts(self.control_hosts), self.endpoints)
        self._refuse_language_without_texts()
        return self

    def _refuse_language_without_texts(self) -> None:
        """A regional variant may do with its language's texts."""
        own = {file.stem for file in self.templates_folder.glob("*.toml")} if self.templates_folder else set()
        languages = {*PACKAGED, *own}
        spoken = {language.replace("_", "-").lower() for language in languages}
        if not spoken & {self.default_locale.lower(), self.default_locale[:2]}:
            raise ValueError(
                f"default_locale {self.default_locale!r} has no texts; there are {', '.join(sorted(languages))}. Name "
                f"one of them, or put {self.default_locale[:2]}.toml into templates_folder"
            )


def load_settings(path: Path | None = None) -> Settings:
    """The settings from `path`, else from $THROUGHLINE_SETTINGS, else from ./throughline.toml if it is there.

    Environment variables `THROUGHLINE_*` win over the file; a nested field is named with two underscores
    (`THROUGHLINE_WEB__PORT`). Relative folders are relative to the file. `data_dir` is created, and a secret in it
    if none is set. `public_url` is never empty.

    Raises:
        SettingsError: anything is wrong; nothing was started.
    """
    file = find_settings_file(path)
    where = str(file) if file else "the environment"
    raw = read_settings_file(file) if file else {}
    if unknown := find_unknown_variables(
        os.environ, tuple(Settings.model_fields), {SETTINGS_VARIABLE, PARENT_VARIABLE}
    ):
        raise SettingsError("\n".join(unknown))
    folder = file.parent if file else Path.cwd()
    try:
        settings = Settings(**resolve_elsewhere(_with_absolute_folders(raw, folder), where))
    except UnreadableVariable as error:
        raise SettingsError(
            f"environment: {error}. Write lists and whole tables as JSON, as in "
            'THROUGHLINE_FAILOVER__CHANNEL_ORDER=\'["sms", "email"]\'.'
        ) from error
    except ValidationError as error:
        raise SettingsError("\n".join(describe_faults(error, where, Settings, os.environ))) from error
    data_dir = settings.data_dir if settings.data_dir.is_absolute() else folder / settings.data_dir
    settings = settings.model_copy(
        update={
            "data_dir": data_dir,
            "public_url": settings.public_url or _local_url(settings.web),
        }
    )
    if settings.secret.get_secret_value():
        return settings
    return settings.model_copy(update={"secret": SecretStr(_kept_secret(data_dir))})


def find_settings_file(path: Path | None) -> Path | None:
    """The file to read, absolute; None where none is named and the default one is absent.

    Raises:
        SettingsError: a file was named that does not exist.
    """
    named = path or (Path(os.environ[SETTINGS_VARIABLE]) if os.environ.get(SETTINGS_VARIABLE) else None)
    file = (named or Path(SETTINGS_FILE)).absolute()
    if file.is_file():
        return file
    if named is None:
        return None
    raise SettingsError(
        f"{file}: there is no such file. Correct --settings or {SETTINGS_VARIABLE}, or start from "
        "deploy/throughline.example.toml."
    )


UNREADABLE_TOML = "a number in it has thousands of digits, or its lists stand in each other too deeply"


def read_settings_file(file: Path) -> dict[str, Any]:
    """The file's tables as they stand.

    Raises:
        SettingsError: unreadable, too large, or no TOML.
    """
    try:
        octets = _read_bounded(file, SETTINGS_MAX_BYTES)
        if len(octets) > SETTINGS_MAX_BYTES:
            raise SettingsError(
                f"{file}: larger than {SETTINGS_MAX_BYTES} bytes, so it cannot be a settings file. Name another."
            )
        return tomllib.loads(octets.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: this is not valid TOML: {error}. Correct that line.") from error
    except (ValueError, RecursionError) as error:  # its reader says no more of these, not even where they stand
        raise SettingsError(f"{file}: {UNREADABLE_TOML}. Correct it.") from error
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}. Check who may read it.") from error


def resolve_elsewhere(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Put in what `${NAME}` and `${file:/path}` stand for, so that the settings file need hold no secrets.

    Raises:
        SettingsError: the variable is not set or the file cannot be read.
    """

    def resolve(value: object, place: str) -> object:
        if isinstance(value, dict):
            return {key: resolve(inner, f"{place} {key}".strip()) for key, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, f"{place} number {number}") for number, inner in enumerate(value, 1)]
        if isinstance(value, str) and (found := REFERENCE_TO_ELSEWHERE.match(value)):
            return _read_file(found[2], place) if found[1] else _read_variable(found[2], place)
        return value

    def _read_variable(name: str, place: str) -> str:
        if name in os.environ:
            return os.environ[name]
        raise SettingsError(f"{where}: {place}: the environment variable {name} is not set. Set it before starting.")

    def _read_file(name: str, place: str) -> str:
        try:
            octets = _read_bounded(Path(name), ELSEWHERE_MAX_BYTES)
            if len(octets) > ELSEWHERE_MAX_BYTES:
                words = f"{name} is larger than {ELSEWHERE_MAX_BYTES} bytes. Name a file that holds this value alone."
                raise SettingsError(f"{where}: {place}: {words}")
            return octets.decode().strip()
        except OSError as error:
            words = f"{name} cannot be read: {error.strerror}. Correct its name, or who may read it."
            raise SettingsError(f"{where}: {place}: {words}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{where}: {place}: {name} holds no text. Name a file of one line of text.") from error
        except ValueError as error:  # a NUL in its name
            raise SettingsError(f"{where}: {place}: {name!r} can be no file's name. Correct it.") from error

    return {key: resolve(value, key) for key, value in raw.items()}


def _read_bounded(file: Path, most: int) -> bytes:
    """At most one octet more than that: what is named may be a device without an end."""
    with file.open("rb") as opened:
        return opened.read(most + 1)


def default_broker_url(redis_url: str) -> str:
    """Database 1 of the given Redis, in the words Celery uses for it."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        password = parts.password or quote(parse_qs(parts.query).get("password", [""])[-1], safe="")
        login = f"{parts.username or ''}:{password}@" if password else ""
        return f"redis+socket://{login}{parts.path}?virtual_host=1"
    if "+sentinel" in parts.scheme:
        return parts._replace(path=f"/{parts.path.strip('/').partition('/')[0]}/1").geturl()
    query = "&".join(f"{key}={values[-1]}" for key, values in parse_qs(parts.query).items() if key != "db")
    return parts._replace(path="/1", query=query).geturl()


def _with_absolute_folders(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Anchor relative folders at the settings file, so that it does not matter where the command is run."""
    anchored = dict(raw)
    for key in ("data_dir", "templates_folder"):
        if isinstance(raw.get(key), str):
            anchored[key] = str(folder / _at_home(Path(raw[key])))
    return anchored


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # the home of nobody we know: a folder that is called so
        return path


def _local_url(web: WebSettings) -> str:
    host = "127.0.0.1" if web.host in {"0.0.0.0", "::", "localhost"} else web.host  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{web.port}" if ":" in host else f"http://{host}:{web.port}"


def _kept_secret(data_dir: Path) -> str:
    """The secret in `data_dir`, made once; two processes that start together end up with the same one."""
    file = data_dir / "secret"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
        if not file.exists():
            draft = data_dir / f"secret.{os.getpid()}.{secrets.token_hex(4)}"
            write_private_file(draft, secrets.token_urlsafe(SECRET_LENGTH_MIN))
            try:
                file.hardlink_to(draft)
            except FileExistsError:
                pass  # another process was first: its secret counts
            finally:
                draft.unlink()
        kept = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"data_dir: the folder {data_dir} cannot be written or read: {error.strerror}. Give this user the folder, "
            "or name another one."
        ) from error
    if len(kept) < SECRET_LENGTH_MIN:
        raise SettingsError(f"{file}: is damaged (too short). Restore it from a backup, or delete it for a new one.")
    return kept


def write_private_file(file: Path, text: str) -> None:
    """Create or replace a file that only its owner may read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
