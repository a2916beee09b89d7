"""Settings from an environment mapping and a TOML file. Nothing else interprets either; all mistakes are told at once.

The structs are also the table behind docs/settings.md: every field carries its meaning and its bounds.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from shared.core.profiles import PROFILES, Preset, Profile, spoken
from shared.errors import ConfigError

MIB = 1024 * 1024
DAY_S = 86_400
OPENAI_BASE_URL = "https://api.openai.com/v1"
MAX_MODEL_NAME = 256  # characters; no longer name is looked up
MIN_SEAL_KEY_CHARS = 32

Count = Annotated[int, Meta(ge=1)]
WholeSeconds = Annotated[int, Meta(ge=1, le=3650 * DAY_S)]
Seconds = Annotated[float, Meta(gt=0, le=365 * DAY_S)]
CHANNEL = r"^[A-Za-z0-9_.-]{0,64}$"
TENANT = r"^[A-Za-z0-9_.-]{1,64}$"
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$")]


class Secret:
    """A text that is only seen by who asks for it: neither ``str`` nor ``repr`` shows it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key that clients may use. Only its hash is kept."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="Shown in the logs instead of the key.")]
    tenant: Annotated[str, Meta(pattern=TENANT, description="Keys of one tenant see the same responses.")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, 64 hexadecimal digits.")]


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a public model name leads. ``key`` is resolved from ``key_env`` at load and cannot be written in the file."""

    dialect: Annotated[
        Literal["chat", "responses", "anthropic", "echo"],
        Meta(
            description="What the backend speaks: Chat Completions, Responses or Anthropic Messages; `echo` is embedded."
        ),
    ]
    base_url: Annotated[str, Meta(description="Address up to and including `/v1`; needed, but for `echo`.")] = ""
    model: Annotated[str, Meta(description="The backend's name of the model. Empty: the name that was asked for.")] = ""
    key_env: Annotated[
        str, Meta(description="Environment variable with the backend's key, or with `_FILE` its file.")
    ] = ""
    profile: Annotated[Preset, Meta(description="Name of the backend's list of quirks.")] = "generic"
    profile_overrides: Annotated[
        dict[str, Any], Meta(description="Fields of the profile that differ here: see [backends.md](backends.md).")
    ] = {}
    context_tokens: Annotated[
        int, Meta(ge=0, description="The model's context window; 0: unknown, then no request is refused or cut for it.")
    ] = 0
    connect_timeout_s: Annotated[Seconds, Meta(description="Seconds to connect.")] = 10
    first_byte_timeout_s: Annotated[
        Seconds, Meta(description="Seconds from the request to the first byte; some profiles have their own.")
    ] = 300
    idle_timeout_s: Annotated[
        Seconds,
        Meta(description="Seconds without a byte in mid-answer; comments count; some profiles have their own."),
    ] = 120
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(description="Headers added to each request.")] = {}
    channel: Annotated[
        str,
        Meta(pattern=CHANNEL, description="Group of backends that the header `X-Channel` chooses. Unset: without it."),
    ] = ""
    name: Annotated[
        str,
        Meta(max_length=256, description="The public name, if it is not the table's: two channels may share one."),
    ] = ""
    backend: Annotated[
        str,
        Meta(
            pattern=CHANNEL,
            description="Name of the backend in logs and headers; backends of one name share their limit and their health.",
        ),
    ] = ""
    weight: Annotated[
        int, Meta(ge=0, le=1000, description="Its share of the calls among backends of the same `fallback`.")
    ] = 1
    fallback: Annotated[
        int, Meta(ge=0, le=100, description="Backends with 0 are asked first, then those with 1, and so on.")
    ] = 0
    max_concurrency: Annotated[
        int, Meta(ge=0, description="Most calls at once, of all workers together; 0: no limit.")
    ] = 0
    backends: Annotated[
        tuple["ModelRow", ...], Meta(description="`[[models.NAME.backends]]`: several backends instead of one.")
    ] = ()
    created: Annotated[int, Meta(ge=0, description="Unix time shown by `GET /v1/models`.")] = 0
    owned_by: Annotated[str, Meta(description="Owner shown by `GET /v1/models`.")] = "respool"
    key: Secret | None = None

    @property
    def targets(self) -> "tuple[ModelRow, ...]":
        """Its backends, a row each; the first one's fields are also the model's own."""
        return self.backends or (self,)

    @property
    def quirks(self) -> Profile:
        """The profile with its overrides, as the dialect has it."""
        profile = spoken(PROFILES[self.profile], self.dialect)
        return msgspec.structs.replace(profile, **self.profile_overrides) if self.profile_overrides else profile


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a process, checked."""

    redis_url: Annotated[
        str | None,
        Meta(description="`redis://`, `rediss://` or `unix://`. Unset: `respool up` starts the embedded Valkey."),
    ] = None
    host: Annotated[str, Meta(description="Address to listen on; beyond loopback only with `keys`.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8080
    metrics: Annotated[bool, Meta(description="Serve `GET /metrics`, without a key: see [metrics.md](metrics.md).")] = (
        True
    )
    reuse_port: Annotated[bool, Meta(description="Share the port with other front ends; set by `up --api N`.")] = False
    data_dir: Annotated[str, Meta(min_length=1, description="Folder of the embedded Valkey.")] = "respool-data"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], Meta(description="The least level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"], Meta(description="`auto`: `console` on a terminal, else `json`.")
    ] = "auto"
    durability: Annotated[
        Literal["everysec", "always"],
        Meta(description="`appendfsync` of the embedded Valkey: at most 2 s lost, or nothing."),
    ] = "everysec"
    max_body_bytes: Annotated[Count, Meta(description="Largest request body, bytes (32 MiB).")] = 32 * MIB
    max_output_bytes: Annotated[Count, Meta(description="Largest output of one response, bytes (16 MiB).")] = 16 * MIB
    max_context_bytes: Annotated[Count, Meta(description="Largest history of one response, bytes (32 MiB).")] = 32 * MIB
    max_chain_links: Annotated[Count, Meta(description="Longest chain of `previous_response_id`, responses.")] = 1000
    max_input_items: Annotated[Count, Meta(description="Most items in one request's `input`.")] = 20_000
    strict_parameters: Annotated[
        bool, Meta(description="Refuse keys of a create call that the API does not have, instead of ignoring them.")
    ] = False
    prompts_dir: Annotated[
        str | None, Meta(description="Folder with the templates behind `prompt`. Unset: `prompt` is refused.")
    ] = None
    max_queue: Annotated[Count, Meta(description="Most waiting responses; above it, creating one answers 503.")] = (
        10_000
    )
    tenant_max_waiting: Annotated[
        int,
        Meta(ge=0, description="Most waiting responses of one tenant; above it, creating one answers 429. 0: no cap."),
    ] = 0
    tenant_max_unfinished: Annotated[
        int, Meta(ge=0, description="Most waiting and running responses of one tenant; above it, 429 too. 0: no cap.")
    ] = 0
    max_queue_s: Annotated[WholeSeconds, Meta(description="Seconds a response may wait before it fails (1 day).")] = (
        DAY_S
    )
    max_run_s: Annotated[Seconds, Meta(description="Seconds a response may run before it fails (6 hours).")] = 21_600
    max_foreground_s: Annotated[
        Seconds, Meta(description="Seconds a foreground call is held; official clients give up at 600 and post again.")
    ] = 540
    worker_slots: Annotated[Count, Meta(description="Most responses that one worker runs at once.")] = 1024
    drain_s: Annotated[float, Meta(ge=0, le=DAY_S, description="Seconds to finish running work after SIGTERM.")] = 30
    drain_notice_s: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY_S,
            description="Seconds a stopping front end still listens, for balancers to see `/ready` fail.",
        ),
    ] = 1
    retention_s: Annotated[
        WholeSeconds, Meta(description="Seconds a stored response and its events are kept (30 days).")
    ] = 30 * DAY_S
    max_stored_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory of Redis, bytes: above it the oldest ended responses are removed before their time. 0: never.",
        ),
    ] = 0
    unstored_background_s: Annotated[
        WholeSeconds, Meta(description="Seconds a background response with `store=false` is kept after its end.")
    ] = 600
    unstored_foreground_s: Annotated[
        WholeSeconds, Meta(description="Seconds a foreground response with `store=false` stays for attached readers.")
    ] = 60
    foreground_hangup: Annotated[
        Literal["cancel", "continue"], Meta(description="What becomes of a foreground response whose client hangs up.")
    ] = "cancel"
    sse_ping_s: Annotated[Seconds, Meta(description="Seconds without an event before a `: ping` is sent.")] = 15
    sse_write_timeout_s: Annotated[
        Seconds, Meta(description="Seconds a client may take nothing from a stream before it is cut.")
    ] = 30
    body_timeout_s: Annotated[Seconds, Meta(description="Seconds to receive a request's body before 408.")] = 60.0
    submit_budget_s: Annotated[Seconds, Meta(description="Seconds to get a response into Redis before 503.")] = 3.0
    lease_s: Annotated[Seconds, Meta(description="Seconds after which a silent worker counts as dead.")] = 5.0
    renew_s: Annotated[Seconds, Meta(description="Seconds between two renewals; at most half of `lease_s`.")] = 1.5
    reap_s: Annotated[Seconds, Meta(description="Seconds between two looks for what dead workers left.")] = 0.5
    legacy_usage: Annotated[
        bool, Meta(description="Show usage also as `prompt_tokens`, `completion_tokens` and their details.")
    ] = False
    trust_request_id: Annotated[
        bool, Meta(description="Take over a well-formed `X-Request-Id` instead of making an id.")
    ] = False
    trusted_proxies: Annotated[
        str, Meta(description="Networks, by commas (`10.0.0.0/8, ::1`): `X-Tenant-Id` from there chooses the tenant.")
    ] = ""
    keys: Annotated[tuple[ApiKey, ...], Meta(description="`[[keys]]`: the keys that clients may use.")] = ()
    models: Annotated[
        dict[str, ModelRow], Meta(description="`[models.NAME]`: the public models; `*` in a name matches anything.")
    ] = {}
    seal_keys: tuple[Secret, ...] = ()
    """From ``RESPOOL_SEAL_KEY`` alone: the first one seals, all of them open (``shared/seal.py``)."""

    @property
    def context_keep_s(self) -> int:
        """How long the context of a new response must live: its own retention counts from its end, not from now."""
        return self.retention_s + self.max_queue_s + int(self.max_run_s)

    def __repr__(self) -> str:
        shown = {field: getattr(self, field) for field in self.__struct_fields__}
        shown["redis_url"] = self.redis_url and without_password(self.redis_url)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


TABLES = ("keys", "models")  # only in the file
OF_THE_MODEL = ("name", "channel", "created", "owned_by", "context_tokens", "backends")
CONVENTIONAL = {name: name.upper() for name in ("redis_url", "host", "port", "log_level", "log_format")}
# Not settings of a process: the file's name, and what the client commands read.
OTHER_VARIABLES = ("RESPOOL_CONFIG", "RESPOOL_URL", "RESPOOL_API_KEY", "RESPOOL_SEAL_KEY", "RESPOOL_SEAL_KEY_FILE")


def variable(setting: str) -> str:
    """The environment variable of a scalar setting: a conventional name where there is one, else ``RESPOOL_<NAME>``.

    One name each. ``RESPOOL_PORT`` in particular is not ours: Kubernetes sets it for a service called respool.
    """
    return CONVENTIONAL.get(setting, f"RESPOOL_{setting.upper()}")


VARIABLES = {variable(name): name for name in Settings.__struct_fields__ if name not in (*TABLES, "seal_keys")}


class Row(NamedTuple):
    """One setting for the docs."""

    name: str
    variable: str
    type: str
    default: str
    meaning: str


def describe(struct: type[msgspec.Struct]) -> list[Row]:
    """The settings of *struct* as a table. Fields without a meaning are not settings."""
    hints = get_type_hints(struct, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(struct):
        metas = [part for part in get_args(hints[field.name]) if isinstance(part, Meta) and part.description]
        if not metas:
            continue
        name = variable(field.name) if struct is Settings and field.name not in TABLES else ""
        default = "(needed)" if field.required else _shown(field.default, field.default_factory)
        rows.append(Row(field.name, name, _type_name(field.type), default, str(metas[-1].description)))
    return rows


def _shown(default: Any, factory: Any) -> str:
    value = factory() if default is msgspec.NODEFAULT else default
    if value in (None, "", (), {}, frozenset()):
        return "unset"
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(value) if isinstance(value, frozenset) else value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) in (UnionType, Union):
        return _type_name(next(inner for inner in get_args(hint) if inner is not NoneType))
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) in (tuple, frozenset):
        return "list" if get_origin(get_args(hint)[0]) is Literal or get_args(hint)[0] is str else "tables"
    names = {int: "whole number", float: "number", bool: "true or false", dict: "table"}
    return names.get(get_origin(hint) or hint, "text")


def without_password(url: str) -> str:
    """*url* as it may be shown: no password, no query (Redis takes one there too)."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0]
    user, at, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{place}" if at else place, query=""))


def find_model(models: Mapping[str, ModelRow], name: str, channel: str = "") -> ModelRow | None:
    """The row for a public model name: the exact one, else that of the longest pattern that fits. Only rows of
    *channel* count; the empty one has those without."""
    row = models.get(name)
    if row is not None and row.channel == channel and not row.name:
        return row
    offered = models_of(models, channel)
    if name in offered:
        return offered[name]
    fitting = [pattern for pattern in offered if _fits(pattern, name)]
    return offered[max(fitting, key=len)] if fitting else None


def models_of(models: Mapping[str, ModelRow], channel: str = "") -> dict[str, ModelRow]:
    """The rows of *channel* under their public names."""
    return {row.name or name: row for name, row in models.items() if row.channel == channel}


def channels_of(models: Mapping[str, ModelRow]) -> set[str]:
    return {row.channel for row in models.values()} - {""}


def _fits(pattern: str, name: str) -> bool:
    """Whether *name* is *pattern* with any text for each ``*``. Linear in both."""
    first, *middle = pattern.split("*")
    if not middle or len(name) > MAX_MODEL_NAME or not name.startswith(first):
        return False
    *middle, last = middle
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return at <= end and name.endswith(last)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def needs_stored_keys(settings: Settings) -> bool:
    """Whether it may only be served if there are keys in Redis: it is beyond loopback, without keys in the file."""
    return not is_loopback(settings.host) and not settings.keys


def check_exposure(settings: Settings, *, stored_keys: bool = False) -> None:
    """Refuse to listen beyond loopback without keys (ConfigError)."""
    if needs_stored_keys(settings) and not stored_keys:
        remedy = "make one with `respool keys create NAME`, add a [[keys]] table, or listen on 127.0.0.1"
        raise ConfigError([f"HOST: {settings.host} can be reached by others, and no keys are configured: {remedy}"])


def networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The networks of ``trusted_proxies``. Raises ``ValueError``."""
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def read_config(environ: Mapping[str, str]) -> bytes | None:
    """The bytes of the file that ``RESPOOL_CONFIG`` names, if it names one."""
    path = environ.get("RESPOOL_CONFIG")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"RESPOOL_CONFIG: {path} cannot be read: {error.strerror}"]) from error


def load_settings(environ: Mapping[str, str], toml: bytes | None) -> Settings:
    """Settings from the environment, over those of the file, over the defaults. Empty variables count as unset."""
    return _Loader(environ).load(toml)


class _Loader:
    """Reads everything and gathers the mistakes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: value for name, value in environ.items() if value}
        self.problems: list[str] = []

    def load(self, toml: bytes | None) -> Settings:
        file = self.parse(toml or b"")
        keys, models = file.pop("keys", []), file.pop("models", {})
        values = self.convert(Settings, file, "", extra=TABLES) | self.scalars()
        settings = Settings(
            **values,
            keys=self.keys(keys),
            models=self.models(models) or self.default_models(),
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
                self.problems.append(f"{path}{name}: there is no such setting{_hint(name, [*fields, *extra])}")
                continue
            try:
                values[name] = msgspec.convert(value, fields[name].type)
            except msgspec.ValidationError as error:
                self.problems.append(f"{path}{name}: {error}")
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
                self.problems.append(f"{name}: {text!r}: {error}")
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
            return text.strip()
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
        key = self.key(row.key_env) if row.key_env else None
        if row.key_env and key is None:
            self.problems.append(
                f"{path}key_env: neither {row.key_env} nor {row.key_env}_FILE is set in the environment"
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

    def address(self, url: str, path: str) -> None:
        parts = _split(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            self.problems.append(f"{path}: must be an address such as http://127.0.0.1:8000/v1")
        elif parts.query or parts.fragment or parts.username is not None:
            self.problems.append(f"{path}: must not hold a user, a key, a query or a fragment")

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


def _hint(name: str, known: list[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
