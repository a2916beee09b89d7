import base64
import hashlib
import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import load_settings, overlooked, read_config
from shared.core.profiles import PROFILES, Profile
from shared.errors import ConfigError
from shared.exposure import EXAMPLE_SHA256, check_exposure
from shared.models import channels_of, find_model, models_of
from shared.settings import (
    OTHER_VARIABLES,
    TABLES,
    VARIABLES,
    ApiKey,
    ModelRow,
    Secret,
    Settings,
    Webhook,
    variable,
    without_password,
)
from shared.settings_table import describe

ROOT = Path(__file__).parents[2]
KEY = hashlib.sha256(b"sk-1").hexdigest()


def problems(environ: dict[str, str] | None = None, toml: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ or {}, toml.encode())
    return caught.value.problems


def test_defaults() -> None:
    assert load_settings({}, None) == Settings(models={"echo": ModelRow(dialect="echo", backend="echo")})


def test_environment_over_file_over_default() -> None:
    toml = b"port = 9000\ndrain_s = 7\nredis_url = 'redis://file'"
    settings = load_settings({"PORT": "9001", "REDIS_URL": "redis://env/1", "HOST": ""}, toml)
    assert (settings.port, settings.drain_s, settings.host) == (9001, 7, "127.0.0.1")
    assert settings.redis_url == "redis://env/1"


@pytest.mark.parametrize(("name", "setting"), sorted(VARIABLES.items()))
def test_every_scalar_can_be_set_by_its_variable(name: str, setting: str, tmp_path: Path) -> None:
    texts = {
        "redis_url": "unix:///run/redis.sock", "host": "::1", "reuse_port": "true", "data_dir": "elsewhere",
        "log_level": "DEBUG", "log_format": "json", "durability": "always", "foreground_hangup": "continue",
        "strict_parameters": "true", "lease_s": "9.5", "renew_s": "2",
        "metrics": "false", "legacy_usage": "true", "trust_request_id": "true", "trusted_proxies": "10.0.0.0/8, ::1",
    }  # fmt: skip
    text = texts.get(setting, "77")
    value = getattr(load_settings({name: text}, None), setting)
    assert value != getattr(Settings(), setting)
    assert str(value).lower().removesuffix(".0") == text.lower()


def test_kubernetes_variables_of_a_service_called_respool_do_not_disturb() -> None:
    environ = {
        "RESPOOL_PORT": "tcp://10.0.0.1:8080",
        "RESPOOL_SERVICE_HOST": "10.0.0.1",
        "RESPOOL_PORT_8080_TCP_ADDR": "10.0.0.1",
        "RESPOOL_WORKER_SERVICE_PORT": "1",
    }
    assert load_settings(environ, None).port == 8080


def test_all_mistakes_at_once_each_with_its_path() -> None:
    toml = f"""
        prot = 3
        max_queue = "x"
        lease_s = 2
        [models.gpt]
        dialect = "chat"
        key_env = "GPT_KEY"
        [models."q*"]
        dialect = "chat"
        base_url = "localhost:8000"
        idle_timeout_s = 0
        [models.z]
        dialekt = "chat"
        [[keys]]
        name = "a"
        tenant = "not a tenant"
        sha256 = "{KEY}"
    """
    found = problems({"PORT": "80800", "RESPOOL_DRANE_S": "3", "LOG_FORMAT": "xml"}, toml)
    assert {problem.partition(": ")[0] for problem in found} == {
        "prot", "max_queue", "models.gpt.base_url", "models.gpt.key_env", "models.q*.idle_timeout_s", "models.z.dialekt",
        "models.z.dialect", "keys[0].tenant", "PORT", "RESPOOL_DRANE_S", "LOG_FORMAT", "renew_s",
    }  # fmt: skip
    assert "prot: there is no such setting; did you mean port?" in found
    assert any("(HINT: auto or console or json)" in each for each in found)
    assert "RESPOOL_DRANE_S: there is no such setting; did you mean RESPOOL_DRAIN_S?" in found


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[models.llama3.2]\ndialect = 'chat'", 'quotes: [models."llama3.2"]'),
        ("[models.q]\ndialect = 'echo'\napi_key = 'sk-proj-1'", "set key_env to the name of an environment variable"),
        (
            "[models.q]\ndialect = 'chat'\nbase_url = 'http://h/v1'\nkey_env = 'sk-proj-1'",
            "must be the name of an environment",
        ),
        ("[models.q]\ndialect = 'echo'\nport = 1", "above the first table"),
        ("[[keys]]\nname = 'a'\ntenant = 't'\nkey = 'sk-proj-1'", "sha256sum"),
        ("[[keys]]\nname = 'a'\ntenant = 't'\nsha256 = 'sk-proj-1'", "sha256sum"),
    ],
)
def test_common_mistakes_come_with_what_to_do(toml: str, told: str) -> None:
    found = problems({}, toml)
    assert any(told in each for each in found)
    assert "sk-proj" not in str(found)


@pytest.mark.parametrize(
    ("environ", "toml", "path"),
    [
        ({}, "port = ", "RESPOOL_CONFIG"),
        ({}, "models = 3", "models"),
        ({}, "keys = {}", "keys"),
        ({}, "models.x = 3", "models.x"),
        ({}, "[[models]]", "models"),
        ({}, "keys = [1]", "keys[0]"),
        ({}, "[models.x]\ndialect = 'echo'\nkey = 'sk'", "models.x.key"),
        ({}, "[models.x]\ndialect = 'echo'\nheaders = {a = \"b\\nc\"}", "models.x.headers"),
        ({}, "[models.x]\ndialect = 'chat'\nbase_url = 'http://u:p@h/v1'", "models.x.base_url"),
        ({}, "[models.x]\ndialect = 'chat'\nbase_url = 'http://h:99999/v1'", "models.x.base_url"),
        ({}, f"[models.{'x' * 257}]\ndialect = 'echo'", f"models.{'x' * 257}"),
        ({}, f"[[keys]]\nname='a'\ntenant='t'\nsha256='{KEY}'\n" * 2, "keys[1].sha256"),
        ({}, "max_run_s = inf", "max_run_s"),
        ({}, "trusted_proxies = '10.0.0.0/8, here'", "trusted_proxies"),
        ({}, "trusted_proxies = '10.0.0.1/8'", "trusted_proxies"),
        ({}, "[models.x]\ndialect = 'echo'\nchannel = 'a b'", "models.x.channel"),
        ({}, "[models.x]\ndialect = 'echo'\n[models.y]\ndialect = 'echo'\nname = 'x'", "models"),
        ({"REDIS_URL": "http://h"}, "", "REDIS_URL"),
        ({"REDIS_URL": "redis://h:x"}, "", "REDIS_URL"),
        ({"REDIS_URL": "unix://"}, "", "REDIS_URL"),
        ({"REDIS_URL_FILE": "/nowhere"}, "", "REDIS_URL_FILE"),
        ({"OPENAI_BASE_URL": "here"}, "", "OPENAI_BASE_URL"),
        ({"OPENAI_API_KEY": "sk-\x7f"}, "", "OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "http://localhost:8080/v1"}, "", "models.*.base_url"),
    ],
)
def test_mistakes(environ: dict[str, str], toml: str, path: str) -> None:
    assert [problem.partition(": ")[0] for problem in problems(environ, toml)] == [path]


ADDRESSES = [
    "localhost:8000", "ftp://h/v1", "http:///v1", "http://h:0/v1", "http://h:99999/v1", "http://u@h/v1", "http://h/v1?a=b",
    "http://h/v1?", "http://h/v1#", "http://foo bar/v1", "http://h\n/v1", "http://a\0b/v1",
    "http://a..b/v1", "http://.a/v1", "https://./v1", "http://h\u200b/v1", "http://h\\b/v1", "http://a%20b/v1", "http://{h}/v1",
    f"http://{'a' * 64}/v1", f"http://{'ü' * 60}.example/v1", f"http://{'a.' * 127}/v1", "http://[::1/v1", "http://[::x]/v1",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_address_of_a_backend(address: str) -> None:
    """Each would fail every response, some with a traceback."""
    assert [problem.partition(": ")[0] for problem in problems({"OPENAI_BASE_URL": address})] == ["OPENAI_BASE_URL"]


@pytest.mark.parametrize(
    "address",
    ["http://h", "HTTPS://H:8443/a b/%/v1", "http://a_b-c.internal./v1", "http://bücher.example/v1", "http://127.0.0.1:8001/v1",
     "http://[::1]:8001/v1", "http://[fe80::1%eth0]:8001/v1", f"http://{'a' * 63}.b/v1"],
)  # fmt: skip
def test_addresses_of_backends(address: str) -> None:
    assert load_settings({"OPENAI_BASE_URL": address}, None).models["*"].base_url == address


@given(st.binary(max_size=60))
def test_no_file_breaks_the_loader(toml: bytes) -> None:
    with suppress(ConfigError):  # and nothing else
        load_settings({}, toml)


def test_secrets_never_show(tmp_path: Path) -> None:
    secret = "sk-not-for-you"
    environ = {"OPENAI_API_KEY": secret, "REDIS_URL": f"redis://user:{secret}@h:1/2?password={secret}"}
    settings = load_settings(environ, None)
    key = settings.models["*"].key
    assert key is not None
    assert key.reveal() == secret
    assert secret not in f"{settings!r} {settings} {key!r} {key} {settings.models}"
    assert without_password(environ["REDIS_URL"]) == "redis://user:***@h:1/2"
    assert without_password("unix:///run/s?db=1&password=p") == "unix:///run/s"
    environ["REDIS_URL"] = f"redis:/{secret}"
    assert secret not in str(problems(environ))


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    (tmp_path / "url").write_text("redis://h/3\n")
    environ = {"GPT_KEY_FILE": str(tmp_path / "key"), "REDIS_URL_FILE": str(tmp_path / "url")}
    toml = b"[models.gpt]\ndialect = 'chat'\nbase_url = 'http://h/v1/'\nkey_env = 'GPT_KEY'"
    settings = load_settings(environ, toml)
    row = settings.models["gpt"]
    assert settings.redis_url == "redis://h/3"
    assert isinstance(row.key, Secret)
    assert (row.key.reveal(), row.base_url) == ("sk-1", "http://h/v1")
    assert problems({**environ, "GPT_KEY": "sk-2"}, toml.decode()) == [
        "GPT_KEY_FILE: GPT_KEY is set as well; unset one of them"
    ]


def test_blanks_and_line_ends_around_a_value_do_not_count(tmp_path: Path) -> None:
    """As they come from files: a key with its line end, variables of a file with Windows' line ends."""
    toml = f"""
        host = " ::1 "
        [models.gpt]
        dialect = "chat "
        base_url = " http://h/v1/ "
        model = " own\t"
        key_env = " GPT_KEY "
        profile_overrides = {{auth_header = " api-key "}}
        [[keys]]
        name = "a "
        tenant = "t "
        sha256 = "{KEY}\\n"
    """
    environ = {
        "GPT_KEY": "sk-1\r\n",
        "PORT": "9001\r",
        "REDIS_URL": " redis://h/1\n",
        "LOG_LEVEL": "DEBUG ",
        "LOG_FORMAT": " ",
    }
    settings = load_settings(environ, toml.encode())
    row = settings.models["gpt"]
    assert (settings.host, settings.port, settings.redis_url) == ("::1", 9001, "redis://h/1")
    assert (settings.log_level, settings.log_format) == ("debug", "auto")
    assert (row.dialect, row.base_url, row.model) == ("chat", "http://h/v1", "own")
    assert row.quirks.auth_header == "api-key"
    assert row.key is not None
    assert row.key.reveal() == "sk-1"
    assert settings.keys == (ApiKey(name="a", tenant="t", sha256=KEY),)
    (tmp_path / "c.toml").touch()
    assert read_config({"RESPOOL_CONFIG": f"{tmp_path}/c.toml\r\n"}) == b""


@pytest.mark.parametrize("address", ["http://h /v1", "http://h\u00a0x/v1"])
def test_blanks_inside_an_address_are_told(address: str) -> None:
    toml = f'[models.gpt]\ndialect = "chat"\nbase_url = "{address}"'
    assert problems({}, toml) == ["models.gpt.base_url: must be an address such as http://127.0.0.1:8000/v1"]


@pytest.mark.parametrize(
    ("environ", "names", "base_url", "profile"),
    [
        ({}, {"echo"}, None, None),
        ({"OPENAI_BASE_URL": "http://h/v1/"}, {"echo", "*"}, "http://h/v1", "generic"),
        ({"OPENAI_BASE_URL": " http://h/v1/\r\n"}, {"echo", "*"}, "http://h/v1", "generic"),
        ({"OPENAI_API_KEY": "k"}, {"echo", "*"}, "https://api.openai.com/v1", "openai"),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://h/v1"}, {"echo", "*"}, "http://h/v1", "generic"),
    ],
)
def test_models_from_the_environment(
    environ: dict[str, str], names: set[str], base_url: str | None, profile: str | None
) -> None:
    models = load_settings(environ, None).models
    assert set(models) == names
    if base_url:
        assert (models["*"].base_url, models["*"].profile) == (base_url, profile)
    only_file = load_settings(environ, b"[models.mine]\ndialect = 'echo'").models
    assert set(only_file) == {"mine"}


def test_valkey_url_is_the_second_choice() -> None:
    assert load_settings({"VALKEY_URL": "valkeys://h:7/1"}, None).redis_url == "rediss://h:7/1"
    assert load_settings({"VALKEY_URL": "redis://a", "REDIS_URL": "redis://b"}, None).redis_url == "redis://b"


def test_find_model() -> None:
    rows = {
        name: ModelRow(dialect="echo", model=name)
        for name in ["*", "qwen-*", "qwen-*-instruct", "qwen-3", "a*b*c", "a.c"]
    }
    expected = {
        "qwen-3": "qwen-3", "qwen-4": "qwen-*", "qwen-4-instruct": "qwen-*-instruct", "gpt": "*", "abc": "a*b*c", "a.c": "a.c",
        "axc": "*", "aXbYc": "a*b*c", "qwen-": "qwen-*", "": "*", "ab": "*", "x" * 257: None,
    }  # fmt: skip
    found = {name: find_model(rows, name) for name in expected}
    assert {name: row and row.model for name, row in found.items()} == expected
    assert find_model({"gpt": rows["*"]}, "gpt-2") is None


def test_a_channel_has_models_of_its_own() -> None:
    toml = b"""
        [models.gpt]
        dialect = "echo"
        [models.gpt-eu]
        dialect = "echo"
        channel = "eu"
        name = "gpt"
        [models."*"]
        dialect = "echo"
        channel = "us"
    """
    rows = load_settings({}, toml).models
    expected = {
        ("gpt", ""): "gpt", ("gpt-eu", ""): None, ("x", ""): None, ("gpt", "eu"): "gpt-eu", ("gpt-eu", "eu"): None,
        ("gpt", "us"): "*", ("gpt", "uk"): None,
    }  # fmt: skip
    assert {asked: find_model(rows, *asked) for asked in expected} == {
        asked: rows[key] if key else None for asked, key in expected.items()
    }
    assert channels_of(rows) == {"eu", "us"}
    assert list(models_of(rows, "eu")) == ["gpt"]


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_patterns_mean_what_a_regular_expression_says(pattern: str, name: str) -> None:
    wanted = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
    assert (find_model({pattern: ModelRow(dialect="echo")}, name) is not None) == wanted


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.test", "*"])
def test_beyond_loopback_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="keys"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, keys=(ApiKey(name="a", tenant="t", sha256=KEY),)))
    check_exposure(Settings(host=host), stored_keys=True)


def test_beyond_loopback_the_key_of_the_example_is_refused() -> None:
    assert EXAMPLE_SHA256 in (ROOT / "deploy/respool.example.toml").read_text()
    keys = (ApiKey(name="a", tenant="t", sha256=EXAMPLE_SHA256),)
    check_exposure(Settings(keys=keys))
    with pytest.raises(ConfigError, match="everybody knows"):
        check_exposure(Settings(host="0.0.0.0", keys=keys), stored_keys=True)


def test_a_file_that_nobody_named_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({}, None)
    assert overlooked({}, settings) == []
    (tmp_path / "respool.toml").touch()
    assert overlooked({}, settings) == ["the respool.toml here is not used: name it with --config respool.toml"]
    assert overlooked({"RESPOOL_CONFIG": "other.toml"}, settings) == []


def test_an_address_beside_a_file_with_models_is_noticed() -> None:
    environ = {"RESPOOL_CONFIG": "c.toml", "OPENAI_BASE_URL": " http://h/v1/ "}
    elsewhere, there = (f'[models.m]\ndialect = "chat"\nbase_url = "http://{host}/v1"\n'.encode() for host in "gh")
    (told,) = overlooked(environ, load_settings(environ, elsewhere))
    assert told.startswith("OPENAI_BASE_URL is not used: c.toml has models, and only those exist.")
    for used in (there, b"port = 1\n"):
        assert overlooked(environ, load_settings(environ, used)) == []
    assert overlooked({"RESPOOL_CONFIG": "c.toml"}, load_settings({}, elsewhere)) == []


def test_read_config(tmp_path: Path) -> None:
    assert read_config({}) is None
    (tmp_path / "c.toml").write_bytes(b"port = 1")
    assert read_config({"RESPOOL_CONFIG": str(tmp_path / "c.toml")}) == b"port = 1"
    with pytest.raises(ConfigError, match="RESPOOL_CONFIG"):
        read_config({"RESPOOL_CONFIG": str(tmp_path / "d.toml")})


@pytest.mark.parametrize("struct", [Settings, ModelRow, ApiKey, Webhook])
def test_every_setting_has_a_meaning_and_is_in_the_docs(struct: type[msgspec.Struct]) -> None:
    docs = (ROOT / "docs/settings.md").read_text()
    rows = describe(struct)
    without_meaning = set(struct.__struct_fields__) - {row.name for row in rows}
    # Secrets, which only the environment has.
    assert without_meaning == {ModelRow: {"key"}, Settings: {"seal_keys"}, Webhook: {"secrets"}}.get(struct, set())
    lines = []
    for row in rows:
        cells = [f"`{row.name}`", f"`{row.variable}`" if row.variable else None, row.type, row.default, row.meaning]
        if row.name not in TABLES:
            lines.append(f"| {' | '.join(cell for cell in cells if cell)} |")
    assert [line for line in lines if line not in docs] == []


def test_every_field_of_a_profile_has_a_meaning_and_is_in_the_docs() -> None:
    docs = (ROOT / "docs/backends.md").read_text()
    rows = describe(Profile)
    assert [row.name for row in rows] == list(Profile.__struct_fields__)
    lines = [f"| `{row.name}` | {row.type} | {row.default} | {row.meaning} |" for row in rows]
    assert [line for line in lines if line not in docs] == []


OVERRIDES = """
    [models.m]
    dialect = "chat"
    base_url = "http://h/v1"
    profile = "zai"
    [models.m.profile_overrides]
"""


def test_fields_of_a_profile_can_be_overridden() -> None:
    toml = """
        vision = false
        drop_params = ["stop"]
        clamp = {temperature = [0, 1]}
        think_tags = ["<mm:think>", "</mm:think>"]
        extra_body = {reasoning = {split = true}}
        efforts = ["low"]
        effort_bodies = {low = {a = 1}}
        extra_query = {api-version = "2"}
    """
    (row,) = load_settings({}, (OVERRIDES + toml).encode()).models.values()
    assert row.quirks == msgspec.structs.replace(
        PROFILES["zai"],
        vision=False,
        drop_params=frozenset({"stop"}),
        clamp={"temperature": (0.0, 1.0)},
        think_tags=("<mm:think>", "</mm:think>"),
        extra_body={"reasoning": {"split": True}},
        efforts=frozenset({"low"}),
        effort_bodies={"low": {"a": 1}},
        extra_query={"api-version": "2"},
    )
    assert row.idle_timeout_s == 600  # the preset's own


def test_timers_come_from_the_model_else_its_profile_else_the_default() -> None:
    def timers(more: str) -> tuple[float, float]:
        (row,) = load_settings({}, more.encode()).models.values()
        return row.first_byte_timeout_s, row.idle_timeout_s

    assert timers(OVERRIDES + "first_byte_timeout_s = 9") == (9, 600)
    assert timers(OVERRIDES.replace('"zai"', '"zai"\nidle_timeout_s = 5') + "idle_timeout_s = 7") == (300, 5)
    assert timers(OVERRIDES.replace("zai", "vllm")) == (300, 120)


def test_all_mistakes_in_overrides_at_once() -> None:
    wrong = """
        visoin = true
        clamp = {seed = [0, 1]}
        efforts = ["most"]
        idle_timeout_s = 0
        auth_header = "a b"
        drop_params = ["model"]
    """
    found = problems(toml=OVERRIDES + wrong)
    names = ("visoin", "clamp", "efforts", "idle_timeout_s", "auth_header", "drop_params")
    assert {problem.partition(": ")[0] for problem in found} == {f"models.m.profile_overrides.{name}" for name in names}
    assert any("did you mean vision?" in problem for problem in found)
    assert problems(toml=OVERRIDES.replace("[models.m.profile_overrides]", "profile_overrides = 3"))


def test_every_variable_is_in_the_docs() -> None:
    docs = (ROOT / "docs/settings.md").read_text()
    names = [
        *VARIABLES,
        *OTHER_VARIABLES,
        "VALKEY_URL",
        "OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        "OPENAI_API_KEY_FILE",
        "REDIS_URL_FILE",
    ]
    assert [name for name in names if f"`{name}`" not in docs] == []
    documented = set(re.findall(r"`(RESPOOL_[A-Z_]+)`", docs)) - {"RESPOOL_PORT"}
    assert documented - {*VARIABLES, *OTHER_VARIABLES} == set()
    assert variable("drain_s") == "RESPOOL_DRAIN_S"


def test_seal_keys_come_from_the_environment_and_are_long_enough() -> None:
    keys = load_settings({"RESPOOL_SEAL_KEY": f"{'a' * 32}, {'b' * 40}"}, None).seal_keys
    assert [key.reveal() for key in keys] == ["a" * 32, "b" * 40]
    with pytest.raises(ConfigError, match=r"RESPOOL_SEAL_KEY.* at least 32"):
        load_settings({"RESPOOL_SEAL_KEY": f"{'a' * 32},short"}, None)
    assert "aaaa" not in repr(load_settings({"RESPOOL_SEAL_KEY": "a" * 32}, None))


HOOK = """
    [[webhooks]]
    name = "ci"
    url = "https://example.com/hooks?token=in-the-query"
    secret_env = "HOOK_SECRET"
"""
HOOK_SECRETS = [f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"a", b"b")]
IDENTIFIER_SECRET = f"whsec_{'a1B2' * 8}"
"""One that could be a variable's name."""


def test_webhooks() -> None:
    (hook,) = load_settings({"HOOK_SECRET": HOOK_SECRETS[0]}, HOOK.encode()).webhooks
    assert (hook.name, hook.tenant, hook.allow_private, hook.place) == ("ci", "", False, "https://example.com")
    assert hook.events == ("response.completed", "response.failed", "response.incomplete", "response.cancelled")
    more = 'events = ["response.failed"]\ntenant = "acme"\nallow_private = true'
    settings = load_settings({"HOOK_SECRET": ", ".join(HOOK_SECRETS)}, (HOOK + more).encode())
    (hook,) = settings.webhooks
    assert (hook.events, hook.tenant, hook.allow_private) == (("response.failed",), "acme", True)
    assert [secret.reveal() for secret in hook.secrets] == HOOK_SECRETS
    assert [text for text in (*HOOK_SECRETS, "in-the-query") if text in repr(settings)] == []


def test_the_secret_of_a_webhook_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{HOOK_SECRETS[0]}\n")
    (hook,) = load_settings({"HOOK_SECRET_FILE": str(tmp_path / "secret")}, HOOK.encode()).webhooks
    assert [secret.reveal() for secret in hook.secrets] == HOOK_SECRETS[:1]


@pytest.mark.parametrize(
    ("toml", "secret", "place", "remedy"),
    [
        (HOOK, "", "webhooks[0].secret_env", "set one of them, or take this webhook out"),
        (HOOK, "sk-no-such-secret", "HOOK_SECRET", "openssl rand"),
        (HOOK, "whsec_c2hvcnQ=", "HOOK_SECRET", "24 to 64 bytes"),
        (HOOK, f"{HOOK_SECRETS[0]},whsec_%%%%", "HOOK_SECRET", "openssl rand"),
        (HOOK.replace('"HOOK_SECRET"', f'"{HOOK_SECRETS[0]}"'), "", "webhooks[0].secret_env", "the name of an environment variable"),
        (HOOK.replace('"HOOK_SECRET"', f'"{IDENTIFIER_SECRET}"'), "", "webhooks[0].secret_env", "the name of an environment variable"),
        (HOOK + "secret = 'whsec_x'", HOOK_SECRETS[0], "webhooks[0].secret", "set secret_env"),
        (HOOK.replace("https://", "ftp://"), HOOK_SECRETS[0], "webhooks[0].url", "https://example.com/hooks"),
        (HOOK.replace("https://", "https://me:pw@"), HOOK_SECRETS[0], "webhooks[0].url", "must not hold a user"),
        (HOOK + 'events = ["response.done"]', HOOK_SECRETS[0], "webhooks[0].events", "response.completed"),
        (HOOK + "events = []", HOOK_SECRETS[0], "webhooks[0].events", "length"),
        (HOOK + "timeout_s = 31", HOOK_SECRETS[0], "webhooks[0].timeout_s", "30"),
        (HOOK + HOOK, HOOK_SECRETS[0], "webhooks[1].name", "two of the name ci"),
        ("webhooks = 3", "", "webhooks", "[[webhooks]]"),
        ("[[webhook]]", "", "webhook", "did you mean webhooks?"),
    ],
)  # fmt: skip
def test_mistakes_in_webhooks_say_what_to_do_and_show_no_secret(
    toml: str, secret: str, place: str, remedy: str
) -> None:
    found = problems({"HOOK_SECRET": secret}, toml)
    (problem,) = [each for each in found if each.startswith(f"{place}: ")]
    assert remedy in problem
    unseen = HOOK_SECRETS[0], IDENTIFIER_SECRET, "in-the-query", "sk-no"
    assert [each for each in found if any(text in each for text in unseen)] == []


def test_the_example_file_loads() -> None:
    text = (ROOT / "deploy/respool.example.toml").read_text()
    assert load_settings({}, text.encode()).models
    everything = re.sub(r"^# (\[|\w+ = )", r"\1", text, flags=re.MULTILINE).encode()
    names = ["OPENAI_API_KEY", "VLLM_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY"]
    environ = dict.fromkeys(names, "sk-1") | {"APP_HOOK_SECRET": HOOK_SECRETS[0]}
    settings = load_settings(environ, everything)
    assert {row.dialect for row in settings.models.values()} == {"anthropic", "chat", "echo"}
    assert len(settings.models["shared"].targets) == 2
    assert settings.keys


BACKENDS = """
[models.m]
dialect = "chat"
model = "own"
profile = "vllm"
context_tokens = 1000

[[models.m.backends]]
base_url = "http://a/v1"
weight = 3
profile_overrides = {vision = false}

[[models.m.backends]]
base_url = "http://b/v1/"
backend = "spare"
profile = "openai"
fallback = 1
key_env = "B_KEY"
"""


def test_backends_take_over_what_the_model_says() -> None:
    row = load_settings({"B_KEY": "sk-b"}, BACKENDS.encode()).models["m"]
    first, second = row.targets
    assert (first.base_url, first.backend, first.weight, first.model, first.profile) == (
        "http://a/v1",
        "m-1",
        3,
        "own",
        "vllm",
    )
    assert (second.base_url, second.backend, second.fallback, second.model, second.profile) == (
        "http://b/v1",
        "spare",
        1,
        "own",
        "openai",
    )
    assert (first.quirks.vision, second.quirks.vision) == (False, True)
    assert (first.key, second.key and second.key.reveal()) == (None, "sk-b")
    assert (row.base_url, row.context_tokens) == ("http://a/v1", 1000)  # the first one's are the model's own


def test_all_mistakes_in_backends_are_told_at_once() -> None:
    toml = BACKENDS.replace("weight = 3", "weight = -1\nname = 'x'").replace('"http://b/v1/"', '"b"')
    with pytest.raises(ConfigError) as caught:
        load_settings({}, toml.encode())
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "models.m.backends[0].name",
        "models.m.backends[0].weight",
        "models.m.backends[1].base_url",
        "models.m.backends[1].key_env",
    ]
    with pytest.raises(ConfigError, match=r"models\.m\.backends: must be written as"):
        load_settings({}, b'[models.m]\ndialect = "echo"\nbackends = "x"')
