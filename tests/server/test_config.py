"""The configuration: what is wrong, where, and what would be right."""

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.engine.streams import Settings
from headrace.errors import BadRequest, ConfigError, UnknownModel
from headrace.policy.retry import RetryPolicy
from headrace.protocol.request import ChatRequest, Message, Tool
from headrace.server.config import Catalogue, Config, StreamConfig, SurfaceConfig, load

PROVIDER = """
[providers.openai]
dialect = "openai_chat"
base_url = "https://api.example.com/v1"
passthrough = true
"""


def config_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    return load(path, environ or {})


def complaint(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """Return what is said about a wrong file, up to the catalogue that is made of it."""
    with pytest.raises(ConfigError) as wrong:
        Catalogue(config_of(tmp_path, text, environ), "http://127.0.0.1:1")
    message = wrong.value.public_message
    assert "\n" not in message
    assert len(message) < 500
    return message


# --- no file ---------------------------------------------------------------------------------------------------------------


def test_without_a_file_there_is_the_simulator_on_loopback() -> None:
    config = load(None, {})

    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.simulator.enabled
    assert config.providers == {}
    assert Catalogue(config, "http://127.0.0.1:1").default_model() == "simulator/story"


@pytest.mark.parametrize(
    ("variable", "name", "dialect"),
    [
        ("OPENAI_API_KEY", "openai", "openai_chat"),
        ("OPENAI_API_KEY", "openai-responses", "openai_responses"),
        ("GEMINI_API_KEY", "gemini", "gemini"),
        ("XAI_API_KEY", "xai", "openai_chat"),
        ("ANTHROPIC_API_KEY", "anthropic", "anthropic"),
        ("OPENROUTER_API_KEY", "openrouter", "openai_chat"),
        ("GROQ_API_KEY", "groq", "openai_chat"),
        ("MISTRAL_API_KEY", "mistral", "openai_chat"),
        ("DEEPSEEK_API_KEY", "deepseek", "openai_chat"),
    ],
)
def test_a_key_in_the_environment_is_a_provider(variable: str, name: str, dialect: str) -> None:
    config = load(None, {variable: "sk-1", "OTHER_API_KEY": "x"})

    assert all(provider.api_key == "sk-1" for provider in config.providers.values())
    provider = config.providers[name]
    assert (provider.dialect, provider.api_key, provider.passthrough) == (dialect, "sk-1", True)
    assert Catalogue(config).targets(f"{name}/any-model")[0].model == "any-model"


def test_a_key_that_is_empty_is_none() -> None:
    assert load(None, {"OPENAI_API_KEY": ""}).providers == {}


def test_defaults_of_the_configuration_are_those_of_the_engine() -> None:
    assert load(None, {}).settings() == Settings()._replace(retry=RetryPolicy())
    assert set(StreamConfig.__struct_fields__) | {"concurrent_streams", "retry"} == set(Settings._fields)


# --- a file ----------------------------------------------------------------------------------------------------------------


def test_a_file_with_everything(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        PROVIDER
        + """
        api_key = "env:MY_KEY"
        models = ["gpt-5-mini"]
        headers = { "x-team" = "env:TEAM", "x-fixed" = "1" }
        concurrency = 8

        [server]
        port = 9000
        cors_origins = ["https://app.example.com"]
        default_model = "fast"

        [models.fast]
        targets = ["openai/gpt-5-mini", "simulator/quick"]

        [stream]
        heartbeat_s = 5
        slow_reader = "gap"

        [limits]
        concurrent_streams = 3

        [retry]
        attempts_max = 1

        [simulator]
        enabled = true
        """,
        {"MY_KEY": "sk-2", "TEAM": "red"},
    )
    settings = config.settings()
    assert (settings.heartbeat_s, settings.slow_reader, settings.concurrent_streams, settings.retry.attempts_max) == (5, "gap", 3, 1)
    assert config.providers["openai"].api_key == "sk-2"
    assert config.providers["openai"].headers == {"x-team": "red", "x-fixed": "1"}
    catalogue = Catalogue(config, "http://127.0.0.1:1")
    assert [(target.provider.name, target.model) for target in catalogue.targets(None)] == [
        ("openai", "gpt-5-mini"),
        ("simulator", "quick"),
    ]
    assert catalogue.providers["openai"].line.capacity == 8


SHORT = PROVIDER + PROVIDER.replace("openai", "other", 1) + '[models.fast]\ntargets = ["openai/x"]\n[models.fast.short_turns]\n'
WRONG = [
    # what is in the file, and what the message must say
    ("[server", ["not TOML", "headrace.toml"]),
    ("port = 1", ["port", "Object contains unknown field"]),
    ("[sever]\nport = 1", ["sever", "Did you mean 'server'"]),
    ('[server]\nport = "8080"', ["server.port", "int"]),
    ("[server]\nprot = 1", ["server", "prot", "Did you mean 'port'"]),
    ("[server]\nport = 99999", ["server.port", "65535"]),
    ("[server]\nport = -1", ["server.port"]),
    ('[server]\nhost = "0.0.0.0"', ["server.host", "allow_unauthenticated"]),
    ('[server]\nhost = ""', ["server.host"]),
    ('[server]\nlog_format = "xml"', ["server.log_format", "xml"]),
    ("[server]\nbody_s_max = -1", ["server.body_s_max", "0"]),
    ("[stream]\nheartbeat_s = -1", ["stream.heartbeat_s", "0"]),
    ("[stream]\nheartbeat_s = 0", ["stream.heartbeat_s"]),
    ("[stream]\nidle_s = 0", ["stream.idle_s"]),
    ("[stream]\nidle_s = inf", ["stream.idle_s"]),
    ("[stream]\nidle_s = nan", ["stream.idle_s"]),
    ('[stream]\nidle_s = "1m"', ["stream.idle_s", "float"]),
    ("[stream]\nheartbeats = 1", ["stream", "Did you mean 'heartbeat_s'"]),
    ('[stream]\nslow_reader = "wait"', ["stream.slow_reader", "wait"]),
    ("[stream]\nhigh_water_bytes = 10\nlow_water_bytes = 20", ["low_water_bytes", "high_water_bytes"]),
    ("[retry]\nattempts_max = 0", ["retry.attempts_max"]),
    ("[limits]\nconcurrent_streams = 1.5", ["limits.concurrent_streams", "int"]),
    ("[limits]\nconcurrent_streams = -3", ["limits.concurrent_streams", "0"]),
    ("[simulator]\nenabled = 1", ["simulator.enabled", "bool"]),
    ("", ["no provider"]),
    ("[providers.x]", ["providers.x", "dialect"]),
    ('[providers.x]\ndialect = "openai_chat"', ["providers.x", "base_url"]),
    ("providers = 1", ["providers", "object"]),
    ("[providers]\nx = 1", ["providers.x", "object"]),
    (
        '[providers.x]\ndialect = "openai"\nbase_url = "https://x"',
        ["providers.x.dialect", "'openai'", "anthropic, gemini, openai_chat, openai_responses"],
    ),
    ('[providers.x]\ndialect = "openai_chat"\nbase_url = "x"', ["providers.x.base_url", "http://"]),
    ('[providers.x]\ndialect = "openai_chat"\nbase_url = "https://u:p@x"', ["providers.x.base_url"]),
    ('[providers."a/b"]\ndialect = "openai_chat"\nbase_url = "https://x"', ["a/b", "letters"]),
    (PROVIDER + "pasthrough = true", ["providers.openai", "Did you mean 'passthrough'"]),
    (PROVIDER + 'api_key = "env:NOT_SET"', ["providers.openai.api_key", "NOT_SET", "not set"]),
    (PROVIDER + 'headers = { "x" = "env:NOT_SET" }', ["providers.openai.headers.x", "NOT_SET"]),
    (PROVIDER + "concurrency = -1", ["providers.openai.concurrency", "0"]),
    (PROVIDER + "queue_max = -1", ["providers.openai.queue_max", "0"]),
    (PROVIDER + "warm_connections = -1", ["providers.openai.warm_connections", "0"]),
    (PROVIDER + 'ca_file = "/nowhere/ca.pem"', ["providers.openai.ca_file", "/nowhere/ca.pem"]),
    (PROVIDER + 'vendor = "mistrall"', ["providers.openai.vendor", "'mistrall' is not known", "cerebras", "mistral"]),
    (
        PROVIDER.replace("openai_chat", "gemini") + 'vendor = "google"',
        ["providers.openai.vendor", "'google'", "the dialect gemini needs none"],
    ),
    (PROVIDER + "vendor = 1", ["providers.openai.vendor", "str"]),
    (
        PROVIDER + "quirks = { max_token_field = 'x' }",
        ["providers.openai.quirks.max_token_field", "openai_chat knows no such quirk", "Did you mean 'max_tokens_field'?"],
    ),
    (PROVIDER + "quirks = { zzz = 1 }", ["providers.openai.quirks.zzz", "There are: api_version, ", "include_usage", ", user."]),
    (PROVIDER + "quirks = { cache_ttl = '1h' }", ["quirks.cache_ttl", "openai_chat knows no such quirk"]),
    (PROVIDER + 'vendor = "xai"\nquirks = { top_kk = true }', ["quirks.top_kk", "Did you mean 'top_k'?"]),
    (PROVIDER + "quirks = ['top_k']", ["providers.openai.quirks", "object"]),
    (PROVIDER + "[models.fast]\ntargets = []", ["models.fast.targets", "empty"]),
    (SHORT + "targets = []", ["models.fast.short_turns.targets", "empty"]),
    (SHORT + 'targets = ["opanai/x"]', ["models.fast.short_turns.targets", "There is no model 'opanai/x'"]),
    (SHORT + 'targets = ["other/x", "openai/"]', ["models.fast.short_turns.targets", "'openai/'"]),
    (SHORT + "characters_max = 10", ["models.fast.short_turns", "targets"]),
    (SHORT + 'targets = ["openai/x"]\ncharacters_max = 0', ["models.fast.short_turns.characters_max", "1"]),
    (SHORT + 'targets = ["openai/x"]\ncharacter_max = 9', ["models.fast.short_turns", "character_max"]),
    (PROVIDER + '[surfaces.ai_sdk]\nheartbeat = "x"', ["surfaces.ai_sdk.heartbeat", "bool"]),
    (PROVIDER + "[surfaces.ai_sdk]\nheartbeats = true", ["Did you mean 'heartbeat'"]),
    (PROVIDER + "[surfaces]\nopenai_chat = 1", ["surfaces.openai_chat"]),
    (
        PROVIDER + '[models.x]\ntargets = ["openai/a"]\n[models.x.short_turns]\ntargets = ["openai/a"]\ncharacter_max = 1',
        ["Did you mean 'characters_max'"],
    ),
    (PROVIDER + "[surfaces.openai]", ["surfaces.openai", "ag_ui, ai_sdk, anthropic, openai_chat, openai_responses"]),
    (PROVIDER + "[surfaces.gemini]", ["surfaces.gemini", "no such surface"]),
    ("[stream]\nreply_bytes_max = 0", ["stream.reply_bytes_max", "1"]),
    (PROVIDER + "[models.fast]", ["models.fast", "targets"]),
    (PROVIDER + '[models.fast]\ntarget = ["openai/x"]', ["models.fast", "Did you mean 'targets'"]),
    (PROVIDER + PROVIDER.replace("openai", "other", 1) + '[models.fast]\ntargets = ["opanai/x"]', ["models.fast.targets", "opanai/x"]),
    (PROVIDER + PROVIDER.replace("openai", "other", 1) + '[server]\ndefault_model = "nobody/x"', ["server.default_model", "nobody/x"]),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text.strip().splitlines()[-1] if text else "nothing" for text, _ in WRONG])
def test_a_wrong_file_is_told_what_where_and_how_else(tmp_path: Path, text: str, said: list[str]) -> None:
    needs_a_provider = "provider" not in text and text
    message = complaint(tmp_path, text + (PROVIDER if needs_a_provider and not text.startswith("[server\n") else ""))

    for part in said:
        assert part in message, message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "relay.example.com"])
def test_an_address_that_others_can_reach_has_to_be_meant(tmp_path: Path, host: str) -> None:
    text = f'[server]\nhost = "{host}"\n'
    assert "allow_unauthenticated" in complaint(tmp_path, text + PROVIDER)
    assert config_of(tmp_path, text + "allow_unauthenticated = true\n" + PROVIDER).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_leave(tmp_path: Path, host: str) -> None:
    assert config_of(tmp_path, f'[server]\nhost = "{host}"\n{PROVIDER}').server.host == host


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(tmp_path / "nowhere.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="not TOML"):
        load(path, {})


def test_no_message_repeats_a_key(tmp_path: Path) -> None:
    message = complaint(tmp_path, PROVIDER + 'api_key = "sk-secret"\nconcurrency = "many"\n')

    assert "sk-secret" not in message


# --- the environment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("HEADRACE_SERVER_PORT", "9000", lambda c: c.server.port == 9000),
        ("HEADRACE_SERVER_HOST", "::1", lambda c: c.server.host == "::1"),
        ("HEADRACE_SERVER_DEFAULT_MODEL", "simulator/quick", lambda c: c.server.default_model == "simulator/quick"),
        ("HEADRACE_SERVER_DEFAULT_MODEL", "42", lambda c: c.server.default_model == "42"),
        ("HEADRACE_SERVER_CORS_ORIGINS", "https://a,https://b", lambda c: c.server.cors_origins == ["https://a", "https://b"]),
        ("HEADRACE_SERVER_CORS_ORIGINS", "", lambda c: c.server.cors_origins == []),
        ("HEADRACE_STREAM_HEARTBEAT_S", "2.5", lambda c: c.stream.heartbeat_s == 2.5),
        ("HEADRACE_STREAM_HEARTBEAT_S", "2", lambda c: c.stream.heartbeat_s == 2),
        ("HEADRACE_STREAM_SLOW_READER", "gap", lambda c: c.stream.slow_reader == "gap"),
        ("HEADRACE_LIMITS_CONCURRENT_STREAMS", "3", lambda c: c.limits.concurrent_streams == 3),
        ("HEADRACE_RETRY_ATTEMPTS_MAX", "1", lambda c: c.retry.attempts_max == 1),
        ("HEADRACE_SIMULATOR_ENABLED", "true", lambda c: c.simulator.enabled is True),
        ("HEADRACE_SIMULATOR_ENABLED", "False", lambda c: c.simulator.enabled is False),
        ("HEADRACE_SIMULATOR_PORT", "8090", lambda c: c.simulator.port == 8090),
    ],
)
def test_the_environment_stands_over_the_file(tmp_path: Path, variable: str, value: str, read: Any) -> None:
    text = PROVIDER + "[server]\nport = 1\ncors_origins = ['https://file']\n[stream]\nheartbeat_s = 1\n[simulator]\nenabled = false\n"
    assert read(config_of(tmp_path, text, {variable: value}))
    assert config_of(tmp_path, text, {}).server.port == 1


def test_the_environment_needs_no_file() -> None:
    assert load(None, {"HEADRACE_SERVER_PORT": "9000"}).server.port == 9000


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HEADRACE_SERVER_PORT", "many", "server.port"),
        ("HEADRACE_SERVER_PORT", "99999", "server.port"),
        ("HEADRACE_STREAM_IDLE_S", "-1", "stream.idle_s"),
        ("HEADRACE_SERVER_HOST", "0.0.0.0", "server.host"),
        ("HEADRACE_SIMULATOR_ENABLED", "maybe", "simulator.enabled"),
    ],
)
def test_a_wrong_variable_is_named_too(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, {variable: value})


# --- models ----------------------------------------------------------------------------------------------------------------

TWO = """
[providers.a]
dialect = "openai_chat"
base_url = "https://a.example.com"
models = ["small", "org/large"]

[providers.b]
dialect = "anthropic"
base_url = "https://b.example.com"
passthrough = true

[models.alias]
targets = ["a/small", "b/anything"]
"""


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("a/small", [("a", "small")]),
        ("small", [("a", "small")]),
        ("org/large", [("a", "org/large")]),
        ("a/org/large", [("a", "org/large")]),
        ("b/anything", [("b", "anything")]),
        ("anything", [("b", "anything")]),  # the only provider that takes any name
        ("b/with/slashes", [("b", "with/slashes")]),
        ("alias", [("a", "small"), ("b", "anything")]),
        (None, [("a", "small"), ("b", "anything")]),  # the first alias is the default
    ],
)
def test_what_a_model_s_name_means(tmp_path: Path, model: str | None, targets: list[tuple[str, str]]) -> None:
    found = Catalogue(config_of(tmp_path, TWO)).targets(model)

    assert [(target.provider.name, target.model) for target in found] == targets


@pytest.mark.parametrize("model", ["a/unknown", "a/", "/small", "unknown", "c/small"])
def test_what_means_nothing(tmp_path: Path, model: str) -> None:
    closed = TWO.replace("passthrough = true", 'models = ["anything"]')
    catalogue = Catalogue(config_of(tmp_path, closed + "[simulator]\nenabled = true"), "http://127.0.0.1:1")
    with pytest.raises(UnknownModel) as unknown:
        catalogue.targets(model)
    assert unknown.value.field == "model"


def test_without_anything_to_choose_from_a_model_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="model is missing"):
        Catalogue(config_of(tmp_path, PROVIDER)).targets(None)


def test_every_number_of_the_configuration_has_its_unit_in_its_name() -> None:
    for name in StreamConfig.__struct_fields__:
        assert name == "slow_reader" or name.endswith(("_s", "_s_max", "_bytes", "_bytes_max")), name
    assert all(math.isfinite(value) for value in msgspec.structs.astuple(StreamConfig()) if isinstance(value, float))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[providers.a]\ndialect = "openai"\nbase_url = "http://x/v1"\n', "providers.a.dialect: 'openai' is no dialect"),
        ('[providers.a]\ndialect = "anthropic"\nbase_url = "x"\n', "providers.a.base_url"),
        (
            '[simulator]\nenabled = true\n[models.fast]\ntargets = ["simulatr/quick"]\n',
            "models.fast.targets: There is no model 'simulatr/quick'",
        ),
    ],
)
def test_what_is_wrong_with_providers_and_models_is_said_before_anything_starts(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(path)


# --- which provider a bare name goes to ------------------------------------------------------------------------------------

MANY = """
[providers.a]
dialect = "openai_chat"
base_url = "https://a.example.com"
passthrough = true

[providers.b]
dialect = "anthropic"
base_url = "https://b.example.com"
passthrough = true

[providers.c]
dialect = "anthropic"
base_url = "https://c.example.com"
passthrough = true
models = ["known"]

[providers.d]
dialect = "openai_responses"
base_url = "https://d.example.com"
models = ["listed"]

[models.alias]
targets = ["a/x"]
"""


@pytest.mark.parametrize(
    ("model", "dialect", "provider"),
    [
        ("any", "openai_chat", "a"),
        ("any", "anthropic", "b"),  # the first of two
        ("any/with/slashes", "anthropic", "b"),
        ("known", "openai_chat", "c"),  # who lists it knows it, whatever language it speaks
        ("listed", "openai_chat", "d"),
        ("c/any", "openai_chat", "c"),
        ("alias", "anthropic", "a"),
        ("any", "openai_responses", None),  # the one that speaks it takes no name but its own
        ("any", "ai_sdk", None),  # a dialect that no provider speaks
        ("any", None, None),
    ],
)
def test_a_bare_name_goes_first_to_who_speaks_the_caller_s_dialect(
    tmp_path: Path, model: str, dialect: str | None, provider: str | None
) -> None:
    catalogue = Catalogue(config_of(tmp_path, MANY), "http://127.0.0.1:1")
    if provider is None:
        with pytest.raises(UnknownModel):
            catalogue.targets(model, dialect)
    else:
        assert [target.provider.name for target in catalogue.targets(model, dialect)] == [provider]


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic", "openai_responses", "ai_sdk", None])
def test_the_only_provider_takes_a_bare_name_in_every_dialect(tmp_path: Path, dialect: str | None) -> None:
    catalogue = Catalogue(config_of(tmp_path, PROVIDER + "[simulator]\nenabled = true"), "http://127.0.0.1:1")

    assert [(target.provider.name, target.model) for target in catalogue.targets("any", dialect)] == [("openai", "any")]


def test_the_simulator_takes_no_bare_name() -> None:
    catalogue = Catalogue(load(None, {}), "http://127.0.0.1:1")
    for dialect in ("openai_chat", "anthropic", "openai_responses"):
        with pytest.raises(UnknownModel):
            catalogue.targets("any", dialect)


def test_the_simulator_is_there_in_every_dialect_of_providers() -> None:
    catalogue = Catalogue(load(None, {}), "http://127.0.0.1:1")

    assert {name: (provider.dialect.name, provider.prefix) for name, provider in catalogue.providers.items()} == {
        "simulator": ("openai_chat", "/v1"),
        "simulator-anthropic": ("anthropic", ""),
        "simulator-responses": ("openai_responses", "/v1"),
        "simulator-gemini": ("gemini", "/v1beta"),
    }


# --- vendors and quirks ----------------------------------------------------------------------------------------------------


def quirks_of(tmp_path: Path, text: str) -> dict[str, object]:
    return Catalogue(config_of(tmp_path, PROVIDER + text)).providers["openai"].quirks


def test_a_vendor_stands_for_its_quirks(tmp_path: Path) -> None:
    assert quirks_of(tmp_path, "") == {}
    assert quirks_of(tmp_path, 'vendor = "mistral"')["tool_call_id_length"] == 9


def test_quirks_stand_above_those_of_the_vendor(tmp_path: Path) -> None:
    known = quirks_of(tmp_path, 'vendor = "mistral"')
    said = quirks_of(tmp_path, 'vendor = "mistral"\nquirks = { include_usage = true, top_k = true }')

    assert known["include_usage"] is False
    assert said == {**known, "include_usage": True, "top_k": True}


def test_what_one_provider_overrides_is_not_overridden_for_another(tmp_path: Path) -> None:
    known = quirks_of(tmp_path, 'vendor = "mistral"')
    quirks_of(tmp_path, 'vendor = "mistral"\nquirks = { tool_call_id_length = 3 }')["user"] = "changed"

    assert quirks_of(tmp_path, 'vendor = "mistral"') == known


def test_a_key_in_the_environment_brings_its_vendor_along() -> None:
    catalogue = Catalogue(load(None, {"MISTRAL_API_KEY": "k", "OPENAI_API_KEY": "k"}))

    assert catalogue.providers["mistral"].quirks["tool_call_id_length"] == 9
    assert catalogue.providers["openai"].quirks["max_tokens_field"] == "max_completion_tokens"


# --- short turns and surfaces ----------------------------------------------------------------------------------------------

SHORT_TURNS = """
[providers.a]
dialect = "openai_chat"
base_url = "https://a.example.com"
passthrough = true

[models.best]
targets = ["a/large", "a/other"]
short_turns = { targets = ["a/small"], characters_max = 5 }

[models.plain]
targets = ["a/large"]
"""


@pytest.mark.parametrize(
    ("model", "text", "models"),
    [
        ("best", "Hi", ["small", "large", "other"]),  # the usual ones stand behind
        (None, "Hi", ["small", "large", "other"]),  # the default
        ("best", "Hello!", ["large", "other"]),
        ("plain", "Hi", ["large"]),
        ("a/large", "Hi", ["large"]),  # whoever names a model gets it
    ],
)
def test_short_turns_go_to_a_model_of_their_own(tmp_path: Path, model: str | None, text: str, models: list[str]) -> None:
    catalogue = Catalogue(config_of(tmp_path, SHORT_TURNS))
    chat = ChatRequest(messages=[Message(role="user", content=text)])

    assert [target.model for target in catalogue.route(model, lambda: chat)] == models


def test_a_turn_with_tools_is_not_short(tmp_path: Path) -> None:
    chat = ChatRequest(messages=[Message(role="user", content="Hi")], tools=[Tool(name="f")])

    assert [target.model for target in Catalogue(config_of(tmp_path, SHORT_TURNS)).route("best", lambda: chat)] == ["large", "other"]


def test_a_request_is_not_read_where_no_rule_asks_what_is_in_it(tmp_path: Path) -> None:
    def ask() -> ChatRequest:
        raise AssertionError("was read")

    assert Catalogue(config_of(tmp_path, SHORT_TURNS)).route("plain", ask)


def test_a_surface_has_its_defaults_until_the_file_says_otherwise(tmp_path: Path) -> None:
    config = config_of(tmp_path, PROVIDER + '[surfaces.openai_chat]\nreasoning_field = "none"\n[surfaces.ai_sdk]\nheartbeat = false\n')

    assert config.surface("openai_chat") == SurfaceConfig(reasoning_field="none")
    assert config.surface("ai_sdk") == SurfaceConfig(heartbeat=False)
    assert config.surface("anthropic") == SurfaceConfig()
