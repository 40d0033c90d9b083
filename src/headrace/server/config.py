"""The configuration: one TOML file, environment variables over it, and sensible values without either.

`HEADRACE_<SECTION>_<KEY>` overrides a scalar of `[section]` (`HEADRACE_SERVER_PORT=9000`). A value `env:NAME` is read from the
environment variable NAME, so that no key stands in the file. A wrong file is a `ConfigError` that says what is wrong, where,
and what would be right.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from headrace.engine.provider import Provider, Target
from headrace.engine.streams import Settings
from headrace.engine.upstream.pool import parse_base_url
from headrace.errors import BadRequest, ConfigError, UnknownModel
from headrace.policy import routing
from headrace.policy.admission import Line
from headrace.policy.retry import RetryPolicy
from headrace.protocol import dialects
from headrace.protocol.request import ChatRequest

SIMULATOR = "simulator"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_FOREVER_S = 1e9  # thirty years: no deadline is longer, and none is infinite
Deadline: TypeAlias = Annotated[float, Meta(gt=0, le=_FOREVER_S)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=_FOREVER_S)]
Bytes: TypeAlias = Annotated[int, Meta(gt=0)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]


class ServerConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """`host` other than loopback needs `allow_unauthenticated`, because there is no authentication yet."""

    host: str = "127.0.0.1"
    port: Port = 8080
    body_bytes_max: Bytes = 8 * 1024 * 1024
    body_s_max: Deadline = 30.0
    cors_origins: list[str] = []
    drain_timeout_s: Seconds = 30.0
    log_format: Literal["auto", "json", "text"] = "auto"
    allow_unauthenticated: bool = False
    default_model: str | None = None


class ProviderConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """`vendor` stands for the quirks that are known of one; `quirks` stand above them."""

    dialect: str
    vendor: str | None = None
    base_url: str
    api_key: str | None = None
    passthrough: bool = False
    models: list[str] = []
    headers: dict[str, str] = {}
    quirks: dict[str, Any] = {}
    ca_file: str | None = None
    concurrency: Count = 0
    queue_max: Count = 100
    warm_connections: Count = 0


class ShortTurnsConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a turn goes instead if all that the model must read is text of at most `characters_max` characters."""

    targets: list[str]
    characters_max: Annotated[int, Meta(gt=0)] = 400


class ModelConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    targets: list[str]
    short_turns: ShortTurnsConfig | None = None


class SurfaceConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """How a client protocol is spoken. `reasoning_field` is for Chat Completions, which has no official one; `reasoning` is for Responses,
    whose clients mostly show summaries and leave out what is none."""

    heartbeat: bool = True
    reasoning_field: Literal["reasoning_content", "reasoning", "none"] = "reasoning_content"
    reasoning: Literal["summary", "raw"] = "summary"


class StreamConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """Deadlines and policies of a stream, in seconds and bytes."""

    connect_s: Deadline = 10.0
    first_token_s: Deadline = 120.0
    idle_s: Deadline = 60.0
    total_s: Deadline = 1800.0
    queue_wait_s_max: Deadline = 60.0
    heartbeat_s: Deadline = 10.0
    slow_reader_s: Deadline = 30.0
    slow_reader: Literal["pause", "gap"] = "pause"
    disconnect_grace_s: Seconds = 10.0
    high_water_bytes: Bytes = 128 * 1024
    low_water_bytes: Bytes = 32 * 1024
    detached_bytes_max: Bytes = 1024 * 1024
    log_bytes_max: Bytes = 4 * 1024 * 1024
    reply_bytes_max: Bytes = 32 * 1024 * 1024
    retention_s: Seconds = 600.0
    retained_bytes_max: Bytes = 256 * 1024 * 1024


class LimitsConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """Per user; 0 means none."""

    concurrent_streams: Count = 0


class RetryConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """Before the first content only. `attempts_max` counts the first one."""

    attempts_max: Annotated[int, Meta(ge=1)] = 3
    backoff_s: Seconds = 0.25
    wait_s_max: Seconds = 10.0


class SimulatorConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """The built-in provider. Without a configuration file it is on."""

    enabled: bool = False
    port: Port = 0


class Config(Struct, kw_only=True, forbid_unknown_fields=True):
    server: ServerConfig = field(default_factory=ServerConfig)
    providers: dict[str, ProviderConfig] = {}
    models: dict[str, ModelConfig] = {}
    surfaces: dict[str, SurfaceConfig] = {}
    stream: StreamConfig = field(default_factory=StreamConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)

    def surface(self, name: str) -> SurfaceConfig:
        return self.surfaces.get(name) or SurfaceConfig()

    def settings(self) -> Settings:
        return Settings(
            **{name: getattr(self.stream, name) for name in StreamConfig.__struct_fields__},
            concurrent_streams=self.limits.concurrent_streams,
            retry=RetryPolicy(self.retry.attempts_max, self.retry.backoff_s, self.retry.wait_s_max),
        )


_SECTIONS: dict[str, type[Struct]] = {
    "server": ServerConfig,
    "stream": StreamConfig,
    "limits": LimitsConfig,
    "retry": RetryConfig,
    "simulator": SimulatorConfig,
}
_NAMED: dict[str, type[Struct]] = {"providers": ProviderConfig, "models": ModelConfig, "surfaces": SurfaceConfig}
_SIMULATED = (
    ("", "openai_chat", "/v1"),
    ("-anthropic", "anthropic", ""),
    ("-responses", "openai_responses", "/v1"),
    ("-gemini", "gemini", "/v1beta"),
)
_KEYS_OF_PROVIDERS = {
    "openai": ("OPENAI_API_KEY", "openai_chat", "https://api.openai.com/v1"),
    "openai-responses": ("OPENAI_API_KEY", "openai_responses", "https://api.openai.com/v1"),
    "anthropic": ("ANTHROPIC_API_KEY", "anthropic", "https://api.anthropic.com"),
    "gemini": ("GEMINI_API_KEY", "gemini", "https://generativelanguage.googleapis.com/v1beta"),
    "openrouter": ("OPENROUTER_API_KEY", "openai_chat", "https://openrouter.ai/api/v1"),
    "groq": ("GROQ_API_KEY", "openai_chat", "https://api.groq.com/openai/v1"),
    "mistral": ("MISTRAL_API_KEY", "openai_chat", "https://api.mistral.ai/v1"),
    "deepseek": ("DEEPSEEK_API_KEY", "openai_chat", "https://api.deepseek.com/v1"),
    "xai": ("XAI_API_KEY", "openai_chat", "https://api.x.ai/v1"),
}


def load(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration from `path` (or from defaults) with the environment over it.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or says something that is not possible.
    """
    environ = os.environ if environ is None else environ
    if path is None:
        raw = _defaults(environ)
    else:
        try:
            raw = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not TOML: {error}.") from None
    _override(raw, environ)
    config = _convert(raw, str(path) if path else "the environment")
    _resolve_secrets(config, environ)
    check(config)
    return config


def check(config: Config) -> None:
    """Raise `ConfigError` for what is well-formed and still wrong."""
    server = config.server
    if server.host not in LOOPBACK and not server.allow_unauthenticated:
        raise ConfigError(
            f'server.host = "{server.host}" would open the relay, and the keys behind it, to the network without authentication. '
            "Put a proxy that authenticates in front of 127.0.0.1, or set server.allow_unauthenticated = true."
        )
    if not config.providers and not config.simulator.enabled:
        raise ConfigError("There is no provider. Add [providers.<name>] with dialect and base_url, or [simulator] enabled = true.")
    _convert(msgspec.to_builtins(config), "the configuration")  # what the command line put in is not better than a file
    stream = config.stream
    if not stream.low_water_bytes <= stream.high_water_bytes <= stream.log_bytes_max:
        raise ConfigError(
            f"stream.low_water_bytes = {stream.low_water_bytes}, high_water_bytes = {stream.high_water_bytes}, "
            f"log_bytes_max = {stream.log_bytes_max}: each must be at most as large as the next."
        )
    for name in config.surfaces:
        if name not in dialects.CLIENTS:
            raise ConfigError(f"surfaces.{name}: there is no such surface; there are {', '.join(dialects.CLIENTS)}.")
    for name in config.providers:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"providers.{name!r}: a provider's name is of letters, digits, '.', '_' and '-'.")
    Catalogue(config, "http://127.0.0.1" if config.simulator.enabled else None)  # says what is wrong with providers and models


class Catalogue:
    """Which models there are: providers by name, aliases, and what a request's `model` means."""

    def __init__(self, config: Config, simulator_url: str | None = None) -> None:
        self.config = config
        self.providers = {name: _provider(name, p) for name, p in config.providers.items()}
        if simulator_url is not None:
            for suffix, dialect, path in _SIMULATED:
                simulated = ProviderConfig(dialect=dialect, base_url=simulator_url + path, passthrough=True)
                self.providers.setdefault(SIMULATOR + suffix, _provider(SIMULATOR + suffix, simulated))
        self._open = [p for p in self.providers.values() if p.passthrough]
        self._takes_any = [p for p in self._open if p.name in config.providers]
        self._bare = {model: p for name, p in self.providers.items() if name in config.providers for model in config.providers[name].models}
        for alias, model in config.models.items():
            if not model.targets:
                raise ConfigError(f"models.{alias}.targets is empty: name at least one provider/model.")
            for target in model.targets:
                self._check(target, f"models.{alias}.targets")
            if model.short_turns is not None:
                if not model.short_turns.targets:
                    raise ConfigError(f"models.{alias}.short_turns.targets is empty: name at least one provider/model.")
                for target in model.short_turns.targets:
                    self._check(target, f"models.{alias}.short_turns.targets")
        if config.server.default_model and config.server.default_model not in config.models:
            self._check(config.server.default_model, "server.default_model")

    def default_model(self) -> str:
        if self.config.server.default_model:
            return self.config.server.default_model
        if self.config.models:
            return next(iter(self.config.models))
        if self._bare:
            return next(iter(self._bare))
        if SIMULATOR in self.providers:
            return f"{SIMULATOR}/story"
        raise BadRequest("model is missing, and no default model is configured.", field="model")

    def names(self) -> list[str]:
        """The models that can be named as they are; a provider with passthrough takes any name behind `provider/`."""
        return [name for name, _ in self.listed()]

    def listed(self) -> list[tuple[str, str]]:
        """Return `names` with whose they are; aliases are the relay's own."""
        named = [(f"{name}/{model}", name) for name, p in self.config.providers.items() for model in p.models]
        return [*((alias, "headrace") for alias in self.config.models), *named]

    def owner(self, model: str) -> str:
        """Return whose model it is that has this name, be it listed or behind `provider/`.

        Raises:
            UnknownModel: nothing is named so. Somebody may take the name all the same (`route`).
        """
        return "headrace" if model in self.config.models else self._target(model, strict=True).provider.name

    def route(self, model: str | None, chat: Callable[[], ChatRequest], dialect: str | None = None) -> list[Target]:
        """Return what `model` stands for in this request: short turns may have a model of their own, with the others behind it.

        Raises:
            UnknownModel: nothing has that name.
        """
        usual = self.targets(model, dialect)
        alias = self.config.models.get(model or self.default_model())
        rule = alias.short_turns if alias is not None else None
        if rule is None or not routing.is_short(chat, rule.characters_max):
            return usual
        return [*(self._target(target) for target in rule.targets), *usual]

    def targets(self, model: str | None, dialect: str | None = None) -> list[Target]:
        """Return what `model` stands for: an alias' list, or one target. `dialect`: that of the caller, whose providers come first.

        Raises:
            UnknownModel: nothing has that name.
        """
        model = model or self.default_model()
        alias = self.config.models.get(model)
        if alias is not None:
            return [self._target(target) for target in alias.targets]
        return [self._target(model, dialect)]

    def _target(self, model: str, dialect: str | None = None, *, strict: bool = False) -> Target:
        name, slash, rest = model.partition("/")
        provider = self.providers.get(name) if slash and rest else None
        if provider is not None:
            if provider.passthrough or rest in self.config.providers[name].models:
                return Target(provider, rest)
        elif model in self._bare:
            return Target(self._bare[model], model)
        elif not strict and (taker := self._taker(dialect)) is not None:
            return Target(taker, model)
        raise UnknownModel(f"There is no model {model[:120]!r}.{self._suggest(model)}", field="model")

    def _taker(self, dialect: str | None) -> Provider | None:
        """Return the provider that takes a bare name which nobody lists: the first that speaks the caller's dialect, or the only one."""
        own = [provider for provider in self._takes_any if provider.dialect.name == dialect]
        if own:
            return own[0]
        addresses = {(provider.origin, provider.prefix) for provider in self._takes_any}
        return self._takes_any[0] if len(addresses) == 1 else None  # two dialects of one vendor are one

    def _check(self, model: str, where: str) -> None:
        """Refuse a target that is not there. Where several providers would take any name, one that nobody lists is a slip."""
        try:
            self._target(model, strict=len(self._takes_any) > 1)
        except UnknownModel as error:
            raise ConfigError(f"{where}: {error.public_message}") from None

    def _suggest(self, model: str) -> str:
        known = [*self.names(), *(f"{p.name}/<name>" for p in self._open)]
        close = difflib.get_close_matches(model, known, n=1, cutoff=0.6)
        if close:
            return f" Did you mean {close[0]!r}?"
        return f" There are: {', '.join(known[:8])}." if known else ""


def _provider(name: str, config: ProviderConfig) -> Provider:
    try:
        dialect = dialects.load(config.dialect)
    except KeyError as error:
        raise ConfigError(f"providers.{name}.dialect: {error.args[0]}.") from None
    quirks = _quirks(name, config, dialect)
    try:
        origin, prefix = parse_base_url(config.base_url, config.ca_file)
    except ConfigError as error:
        raise ConfigError(f"providers.{name}.base_url: {error.public_message}") from None
    if config.ca_file is not None:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"providers.{name}.ca_file = {config.ca_file!r}: {error.strerror or error}.") from None
    return Provider(
        name,
        dialect,
        origin,
        prefix,
        api_key=config.api_key,
        headers=config.headers,
        quirks=quirks,
        passthrough=config.passthrough,
        line=Line(config.concurrency, config.queue_max),
    )


def _quirks(name: str, config: ProviderConfig, dialect: dialects.Dialect) -> dict[str, object]:
    """Return what this provider wants differently."""
    vendor = config.vendor
    if vendor is not None and vendor not in dialect.vendors:
        known = f"there are {', '.join(sorted(dialect.vendors))}" if dialect.vendors else f"the dialect {dialect.name} needs none"
        raise ConfigError(f"providers.{name}.vendor: {vendor!r} is not known; {known}.")
    for quirk in config.quirks:
        if quirk not in dialect.quirks:
            close = difflib.get_close_matches(quirk, sorted(dialect.quirks), n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(dialect.quirks))}."
            raise ConfigError(f"providers.{name}.quirks.{quirk}: the dialect {dialect.name} knows no such quirk. {hint}")
    return {**(dialect.vendors[vendor] if vendor is not None else {}), **config.quirks}


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    """Without a file: the simulator, and every provider whose key is in the environment."""
    providers = {
        name: {
            "dialect": dialect,
            "base_url": url,
            "api_key": f"env:{variable}",
            "passthrough": True,
            **({"vendor": name} if dialect == "openai_chat" else {}),
        }
        for name, (variable, dialect, url) in _KEYS_OF_PROVIDERS.items()
        if environ.get(variable)
    }
    return {"simulator": {"enabled": True}, "providers": providers}


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for section, cls in _SECTIONS.items():
        for entry in msgspec.structs.fields(cls):
            variable = f"HEADRACE_{section}_{entry.name}".upper()
            said = environ.get(variable)
            table = raw.setdefault(section, {}) if said is not None else None
            if said is None or not isinstance(table, dict):
                continue
            value = [part.strip() for part in said.split(",") if part.strip()] if entry.name == "cors_origins" else said
            try:
                table[entry.name] = msgspec.convert(value, entry.type, strict=False)
            except msgspec.ValidationError as error:
                raise ConfigError(f"{variable} ({section}.{entry.name}): {error}.") from None


def _convert(raw: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        text = str(error)
        place = re.search(r"at `\$\.?([^`]*)`", text)
        what = text.split(" - at ")[0]
        where = place[1] if place and place[1] else "the top level"
        if "[...]" in where:
            where = where.replace("[...]", f".{_whose(raw, where.split('[')[0])}", 1)
        raise ConfigError(f"{source}: {where}: {what}.{_known_fields(text, where)}") from None


def _whose(raw: dict[str, Any], section: str) -> str:
    """Return the name of the entry that is wrong, which msgspec leaves out."""
    cls: Any = _NAMED[section]
    for name, entry in raw[section].items():
        try:
            msgspec.convert(entry, cls)
        except msgspec.ValidationError:
            return str(name)
    return "…"


def _known_fields(text: str, where: str) -> str:
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if not unknown:
        return ""
    section = where.split(".")[0].split("[")[0]
    cls: Any = ShortTurnsConfig if where.endswith(".short_turns") else _SECTIONS.get(section) or _NAMED.get(section)
    names = (cls or Config).__struct_fields__
    close = difflib.get_close_matches(unknown[1], names, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(names)}."


def _resolve_secrets(config: Config, environ: Mapping[str, str]) -> None:
    for name, provider in config.providers.items():
        provider.api_key = _resolve(provider.api_key, f"providers.{name}.api_key", environ)
        provider.headers = {
            key: _resolve(value, f"providers.{name}.headers.{key}", environ) or "" for key, value in provider.headers.items()
        }


def _resolve(value: str | None, where: str, environ: Mapping[str, str]) -> str | None:
    if value is None or not value.startswith("env:"):
        return value
    variable = value[4:]
    if not environ.get(variable):
        raise ConfigError(f"{where}: the environment variable {variable} is not set.")
    return environ[variable]
