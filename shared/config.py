"""Settings from an environment mapping and a TOML file. Nothing else interprets either; all mistakes are told at once."""

import base64
import binascii
import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import yarl

from shared.core.profiles import Profile
from shared.errors import ConfigError
from shared.models import MAX_MODEL_NAME
from shared.settings import (
    OTHER_VARIABLES,
    TABLES,
    VARIABLES,
    ApiKey,
    ModelRow,
    Secret,
    Settings,
    Webhook,
    networks,
    variable,
)
from shared.settings_table import choices, describe

OPENAI_BASE_URL = "https://api.openai.com/v1"
MIN_SEAL_KEY_CHARS = 32
HOOK_KEY_BYTES = range(24, 65)
"""What Standard Webhooks asks of a secret."""
MAX_WEBHOOKS = 64
FILE = "respool.toml"
UNNAMED = f"the {FILE} here is not used: name it with --config {FILE}"
UNUSED_ADDRESS = "OPENAI_BASE_URL is not used: {} has models, and only those exist. Add one with that base_url, or unset the variable"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"(?=.{1,253}$)[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
OF_THE_MODEL = ("name", "channel", "created", "owned_by", "context_tokens", "backends")


def read_config(environ: Mapping[str, str]) -> bytes | None:
    """The bytes of the file that ``RESPOOL_CONFIG`` names, if it names one."""
    path = environ.get("RESPOOL_CONFIG", "").strip()
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"RESPOOL_CONFIG: {path} cannot be read: {error.strerror}"]) from error


def overlooked(environ: Mapping[str, str], settings: Settings) -> list[str]:
    """What people may believe to be in use, and is not: a file of the usual name that nobody named, and an address beside a
    file whose models lead elsewhere."""
    path, address = (environ.get(name, "").strip() for name in ("RESPOOL_CONFIG", "OPENAI_BASE_URL"))
    found = [] if path or not Path(FILE).exists() else [UNNAMED]
    used = {target.base_url for row in settings.models.values() for target in row.targets}
    if address and address.rstrip("/") not in used:
        found.append(UNUSED_ADDRESS.format(path))
    return found


def load_settings(environ: Mapping[str, str], toml: bytes | None) -> Settings:
    """Settings from the environment, over those of the file, over the defaults. Empty variables count as unset; blanks
    and line ends around a text, in either, do not count."""
    return _Loader(environ).load(toml)


class _Loader:
    """Reads everything and gathers the mistakes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: text for name, value in environ.items() if (text := value.strip())}
        self.problems: list[str] = []

    def load(self, toml: bytes | None) -> Settings:
        file = self.parse(toml or b"")
        keys, models, webhooks = file.pop("keys", []), file.pop("models", {}), file.pop("webhooks", [])
        values = self.convert(Settings, file, "", extra=TABLES) | self.scalars()
        settings = Settings(
            **values,
            keys=self.keys(keys),
            models=self.models(models) or self.default_models(),
            webhooks=self.webhooks(webhooks),
            seal_keys=self.seal_keys(),
        )
        self.check(settings)
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))
        return settings

    def parse(self, toml: bytes) -> dict[str, Any]:
        try:
            return tomllib.loads(toml.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.problems.append(f"RESPOOL_CONFIG: not TOML: {error}")
            return {}

    def convert(
        self, struct: type[msgspec.Struct], table: Any, path: str, extra: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The good values of *table*; the rest become problems."""
        if not isinstance(table, dict):
            self.problems.append(f"{path.rstrip('.')}: must be a table")
            return {}
        fields = {row.name: field for row, field in zip(describe(struct), msgspec.structs.fields(struct), strict=False)}
        values = {}
        for name, value in table.items():
            if name not in fields:
                hint = _placed(path, name, value) or _hint(name, [*fields, *extra])
                self.problems.append(f"{path}{name}: there is no such setting{hint}")
                continue
            try:
                values[name] = msgspec.convert(value.strip() if isinstance(value, str) else value, fields[name].type)
            except msgspec.ValidationError as error:
                self.problems.append(f"{path}{name}: {_told(error, fields[name].type)}")
        self.problems += [
            f"{path}{name}: is needed" for name, field in fields.items() if field.required and name not in table
        ]
        return values

    def scalars(self) -> dict[str, Any]:
        """What the environment says about the scalar settings."""
        values: dict[str, Any] = {}
        types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
        for name, setting in VARIABLES.items():
            text = self.environ.get(name)
            if text is None or setting == "redis_url":
                continue
            try:
                values[setting] = msgspec.convert(
                    text.lower() if setting == "log_level" else text, types[setting], strict=False
                )
            except msgspec.ValidationError as error:
                self.problems.append(f"{name}: {text!r}: {_told(error, types[setting])}")
        url = self.secret("REDIS_URL") or self.secret("VALKEY_URL")
        if url:
            values["redis_url"] = re.sub(r"^valkey(?=s?://)", "redis", url)
        known = [*VARIABLES, *OTHER_VARIABLES]
        for setting in ("log_level", "log_format", "host", "redis_url"):
            if f"RESPOOL_{setting.upper()}" in self.environ:
                self.problems.append(f"RESPOOL_{setting.upper()}: there is no such setting; it is {variable(setting)}")
        for name in self.environ:
            # Others may use our prefix (Kubernetes does for a service called respool): only likely slips are told.
            if name.startswith("RESPOOL_") and name not in known and (hint := _hint(name, known, cutoff=0.87)):
                self.problems.append(f"{name}: there is no such setting{hint}")
        return values

    def secret(self, name: str) -> str:
        """The value of a variable, or of the file that ``<name>_FILE`` names; empty when there is neither."""
        text, path = self.environ.get(name, ""), self.environ.get(f"{name}_FILE")
        if not path:
            return text
        if text:
            self.problems.append(f"{name}_FILE: {name} is set as well; unset one of them")
        try:
            return Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError):
            self.problems.append(f"{name}_FILE: {path} cannot be read")
            return ""

    def seal_keys(self) -> tuple[Secret, ...]:
        texts = [text.strip() for text in self.secret("RESPOOL_SEAL_KEY").split(",") if text.strip()]
        if any(len(text) < MIN_SEAL_KEY_CHARS for text in texts):
            self.problems.append(
                f"RESPOOL_SEAL_KEY: each key (separated by commas) must have at least {MIN_SEAL_KEY_CHARS} characters; "
                "make one with: openssl rand -hex 32"
            )
        return tuple(map(Secret, texts))

    def key(self, name: str) -> Secret | None:
        """A backend's key, fit to be sent in a header."""
        text = self.secret(name)
        if not (text.isascii() and text.isprintable()):
            self.problems.append(f"{name}: holds characters that a header cannot carry")
        return Secret(text) if text else None

    def keys(self, tables: Any) -> tuple[ApiKey, ...]:
        rows: list[ApiKey] = []
        if not isinstance(tables, list):
            self.problems.append("keys: must be written as [[keys]]")
            return ()
        for number, table in enumerate(tables):
            before = len(self.problems)
            values = self.convert(ApiKey, table, f"keys[{number}].")
            if len(self.problems) == before:
                rows.append(ApiKey(**values))
                if any(row.sha256 == rows[-1].sha256 for row in rows[:-1]):
                    self.problems.append(f"keys[{number}].sha256: the same key is listed twice")
        return tuple(rows)

    def webhooks(self, tables: Any) -> tuple[Webhook, ...]:
        rows: list[Webhook] = []
        if not isinstance(tables, list):
            self.problems.append("webhooks: must be written as [[webhooks]]")
            return ()
        for number, table in enumerate(tables):
            path, before = f"webhooks[{number}].", len(self.problems)
            values = self.convert(Webhook, table, path)
            if len(self.problems) > before:
                continue
            row = Webhook(**values)
            if any(row.name == other.name for other in rows):
                self.problems.append(f"{path}name: there are two of the name {row.name}")
            self.address(row.url, f"{path}url", example="https://example.com/hooks", query=True)
            rows.append(msgspec.structs.replace(row, secrets=self.hook_secrets(row.secret_env, f"{path}secret_env")))
        if len(rows) > MAX_WEBHOOKS:
            self.problems.append(f"webhooks: there are {len(rows)}, which is more than {MAX_WEBHOOKS}")
        return tuple(rows)

    def hook_secrets(self, name: str, path: str) -> tuple[Secret, ...]:
        if _VARIABLE.fullmatch(name) is None or name.startswith("whsec_"):  # not repeated: it is probably the secret
            self.problems.append(f"{path}: must be the name of an environment variable that holds the secret")
            return ()
        texts = [text.strip() for text in self.secret(name).split(",") if text.strip()]
        if not texts:
            self.problems.append(
                f"{path}: neither {name} nor {name}_FILE is set in the environment: set one of them, or take this webhook out"
            )
        if not all(_is_hook_secret(text) for text in texts):
            self.problems.append(
                f"{name}: each secret (separated by commas) must be whsec_ and {HOOK_KEY_BYTES.start} to {HOOK_KEY_BYTES.stop - 1} "
                'bytes in base64; make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
        return tuple(map(Secret, texts))

    def models(self, tables: Any) -> dict[str, ModelRow]:
        rows: dict[str, ModelRow] = {}
        if not isinstance(tables, dict):
            self.problems.append("models: must be written as [models.NAME]")
            return rows
        for name, table in tables.items():
            row = self.model_of(name, table, f"models.{name}.")
            if row is not None:
                rows[name] = row
            if not name or len(name) > MAX_MODEL_NAME:
                self.problems.append(f"models.{name}: a model's name has 1 to {MAX_MODEL_NAME} characters")
        return rows

    def model_of(self, name: str, table: Any, path: str) -> ModelRow | None:
        """The row of one public name; what its own table says counts for each of its backends."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:60]
        if not isinstance(table, dict) or "backends" not in table:
            return self.backend(table, path, plain)
        tables = table["backends"]
        if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
            self.problems.append(f"{path}backends: must be written as [[{path}backends]]")
            return None
        common = {field: value for field, value in table.items() if field != "backends"}
        rows = [
            self.backend(common | each, f"{path}backends[{place}].", f"{plain}-{place + 1}", own=each)
            for place, each in enumerate(tables)
        ]
        found = [row for row in rows if row is not None]
        return msgspec.structs.replace(found[0], backends=tuple(found)) if len(found) == len(rows) else None

    def backend(self, table: Any, path: str, named: str, own: Mapping[str, Any] | None = None) -> ModelRow | None:
        """A row with one backend. *own* is what its table says beside the model's, which may not be of the model itself."""
        before = len(self.problems)
        self.problems += [f"{path}{field}: belongs to the model" for field in OF_THE_MODEL if own and field in own]
        values = self.convert(ModelRow, table, path)
        overrides = values.get("profile_overrides")
        if overrides is not None:
            values["profile_overrides"] = self.convert(Profile, overrides, f"{path}profile_overrides.")
        if len(self.problems) > before:
            return None
        return self.model(ModelRow(**{"backend": named} | values), path, values)

    def model(self, row: ModelRow, path: str, given: Mapping[str, Any]) -> ModelRow:
        """*row* with its key and its profile's timers, as far as they are not *given*; its address checked."""
        timers = {name: getattr(row.quirks, name) for name in ("first_byte_timeout_s", "idle_timeout_s")}
        timers = {name: value for name, value in timers.items() if value is not None and name not in given}
        if row.dialect != "echo" and not row.base_url:
            self.problems.append(f"{path}base_url: is needed for the dialect {row.dialect}")
        elif row.base_url:
            self.address(row.base_url, f"{path}base_url")
        named = _VARIABLE.fullmatch(row.key_env) is not None
        key = self.key(row.key_env) if named else None
        if row.key_env and not named:  # not repeated: it is probably the key
            self.problems.append(f"{path}key_env: must be the name of an environment variable that holds the key")
        elif row.key_env and key is None:
            self.problems.append(
                f"{path}key_env: neither {row.key_env} nor {row.key_env}_FILE is set in the environment: "
                "set one of them, or take this model out"
            )
        return msgspec.structs.replace(row, base_url=row.base_url.rstrip("/"), key=key, **timers)

    def default_models(self) -> dict[str, ModelRow]:
        """Without models in the file: whatever ``OPENAI_*`` names, and always ``echo``."""
        rows = {"echo": ModelRow(dialect="echo", backend="echo")}
        base_url, key = self.environ.get("OPENAI_BASE_URL", "").rstrip("/"), self.key("OPENAI_API_KEY")
        if base_url:
            self.address(base_url, "OPENAI_BASE_URL")
            key_env = "OPENAI_API_KEY" if key else ""
            rows["*"] = ModelRow(dialect="chat", base_url=base_url, key_env=key_env, key=key, backend="openai")
        elif key:
            rows["*"] = ModelRow(
                dialect="chat",
                base_url=OPENAI_BASE_URL,
                profile="openai",
                key_env="OPENAI_API_KEY",
                key=key,
                backend="openai",
            )
        return rows

    def address(self, url: str, path: str, *, example: str = "http://127.0.0.1:8000/v1", query: bool = False) -> None:
        parts = _split(url)
        if parts is None or parts.scheme not in ("http", "https") or not _can_be_asked(url):
            self.problems.append(f"{path}: must be an address such as {example}")
        elif ("?" in url and not query) or "#" in url or parts.username is not None:
            self.problems.append(f"{path}: must not hold a user, a key{'' if query else ', a query'} or a fragment")

    def check(self, settings: Settings) -> None:
        """What single values cannot tell."""
        if settings.redis_url is not None and not _is_redis_url(settings.redis_url):
            self.problems.append("REDIS_URL: must start with redis://host, rediss://host or unix:///path")
        if settings.renew_s * 2 > settings.lease_s:
            self.problems.append("renew_s: must be at most half of lease_s, so that one lost renewal does not matter")
        try:
            networks(settings.trusted_proxies)
        except ValueError as error:
            self.problems.append(f"trusted_proxies: {error}")
        public = [(row.name or name, row.channel) for name, row in settings.models.items()]
        for name, channel in sorted({each for each in public if public.count(each) > 1}):
            self.problems.append(f"models: there are two rows for {name}{f' in channel {channel}' if channel else ''}")
        for name, target in ((name, target) for name, row in settings.models.items() for target in row.targets):
            if _leads_back(target.base_url, settings):
                self.problems.append(
                    f"models.{name}.base_url: leads back to this very server (OPENAI_BASE_URL is the backend's)"
                )


def _split(url: str) -> SplitResult | None:
    """*url* in parts, its port checked; ``None`` for what is no address."""
    try:
        parts = urlsplit(url)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def _can_be_asked(url: str) -> bool:
    """Whether *url* goes into a request as it is, and its host can be looked up."""
    try:
        host = yarl.URL(url).raw_host or ""
    except ValueError:
        return False
    return url.isprintable() and url == url.strip() and (":" in host or bool(_HOST.fullmatch(host)))


def _is_hook_secret(text: str) -> bool:
    try:
        return text.startswith("whsec_") and len(base64.b64decode(text[6:], validate=True)) in HOOK_KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _is_redis_url(url: str) -> bool:
    parts = _split(url)
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        return False
    return bool(parts.path if parts.scheme == "unix" else parts.hostname)


def _leads_back(base_url: str, settings: Settings) -> bool:
    parts = _split(base_url)
    if parts is None or parts.port != settings.port:
        return False
    return parts.hostname in {"localhost", "127.0.0.1", "::1", settings.host}


def _placed(path: str, name: str, value: Any) -> str:
    """What to do about a setting that stands where it means nothing."""
    if path.startswith("models.") and isinstance(value, dict) and "dialect" in value:
        return f'; a name with a dot needs quotes: [models."{path.removeprefix("models.")}{name}"]'
    if path.startswith("models.") and name in ("key", "api_key"):
        return "; set key_env to the name of an environment variable that holds the key"
    if path.startswith("webhooks[") and name in ("secret", "secrets", "key"):
        return "; set secret_env to the name of an environment variable that holds the secret"
    if path.startswith("keys[") and name in ("key", "api_key"):
        return "; only its hash stands here, as sha256 (printf %s KEY | sha256sum)"
    if path and name in Settings.__struct_fields__:
        return "; settings of the server stand above the first table"
    return ""


def _told(error: msgspec.ValidationError, hint: Any) -> str:
    """*error*, and for a choice what there is to choose from, for a hash how it is made."""
    if "[0-9a-f]{64}" in str(error):
        return "must be 64 hexadecimal digits (HINT: printf %s KEY | sha256sum)"
    return f"{error} (HINT: {choices(hint)})" if "enum value" in str(error) else str(error)


def _hint(name: str, known: list[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
