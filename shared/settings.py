"""All settings as structs: every field carries its meaning and its bounds, and docs/settings.md is made of them."""

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from shared.core.profiles import PROFILES, Preset, Profile, spoken
from shared.core.webhooks import EVENT_TYPES, EventType

MIB = 1024 * 1024
DAY_S = 86_400

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


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told when a background response has ended. ``secrets`` are resolved from ``secret_env`` at load."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,64}$",
            description="Shown in logs and metrics. What waits to be sent is kept under it, also when `url` changes.",
        ),
    ]
    url: Annotated[str, Meta(description="Where events are posted to: `https://` or `http://`.")]
    secret_env: Annotated[
        str,
        Meta(
            description="Environment variable with the secret (`whsec_...`) that signs, or with `_FILE` its file; several by commas all sign."
        ),
    ]
    events: Annotated[tuple[EventType, ...], Meta(min_length=1, description="The ends of responses that are told.")] = (
        EVENT_TYPES
    )
    tenant: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{0,64}$", description="Only this tenant's responses. Unset: those of all tenants."
        ),
    ] = ""
    allow_private: Annotated[
        bool, Meta(description="Also send to addresses of this machine and of private networks.")
    ] = False
    timeout_s: Annotated[
        float, Meta(gt=0, le=30, description="Seconds within which the receiver must acknowledge.")
    ] = 10
    retry_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds until the second attempt, at most; doubled each time, up to 1 hour."),
    ] = 5
    secrets: tuple[Secret, ...] = ()

    @property
    def place(self) -> str:
        """The address as it may be shown: path and query may hold secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def __repr__(self) -> str:
        return f"Webhook({self.name!r}, {self.place!r})"


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
        bool,
        Meta(
            description="Refuse keys of a body that this server does not know, nested ones too, instead of ignoring them."
        ),
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
        Seconds,
        Meta(
            description="Seconds from its creation that a foreground call is held, whichever worker has it; official clients give up at 600 and post again."
        ),
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
    websocket_max_s: Annotated[
        Seconds, Meta(description="Seconds until a WebSocket takes nothing more; then it is closed (1 hour).")
    ] = 3600
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
    webhooks: Annotated[
        tuple[Webhook, ...], Meta(description="`[[webhooks]]`: who is told when background responses end.")
    ] = ()
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


TABLES = ("keys", "models", "webhooks")  # only in the file
CONVENTIONAL = {name: name.upper() for name in ("redis_url", "host", "port", "log_level", "log_format")}
# Not settings of a process: the file's name, what the client commands read, and how messages call the command.
OTHER_VARIABLES = (
    "RESPOOL_CONFIG",
    "RESPOOL_URL",
    "RESPOOL_API_KEY",
    "RESPOOL_SEAL_KEY",
    "RESPOOL_SEAL_KEY_FILE",
    "RESPOOL_COMMAND",
)


def variable(setting: str) -> str:
    """The environment variable of a scalar setting: a conventional name where there is one, else ``RESPOOL_<NAME>``.

    One name each. ``RESPOOL_PORT`` in particular is not ours: Kubernetes sets it for a service called respool.
    """
    return CONVENTIONAL.get(setting, f"RESPOOL_{setting.upper()}")


VARIABLES = {variable(name): name for name in Settings.__struct_fields__ if name not in (*TABLES, "seal_keys")}


def without_password(url: str) -> str:
    """*url* as it may be shown: no password, no query (Redis takes one there too)."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0]
    user, at, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{place}" if at else place, query=""))


def networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The networks of ``trusted_proxies``. Raises ``ValueError``."""
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]
