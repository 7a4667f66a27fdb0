"""Everything an operator can set, in one frozen object read from the environment (prefix AFORO_) and checked at start."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.errors import SettingsConflict
from core.keys import split_token
from core.slots import ClusterUrl

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Seconds = Annotated[float, Field(gt=0, le=3600)]

PREFIX: Final = "AFORO_"
ALIKE: Final = 0.8
SCHEMES: Final = ("redis://", "rediss://")
BROKER_SCHEMES: Final = ("amqp://", "amqps://")
JOB_TTL_MAX: Final = 10 * 365 * 86_400  # seconds; Redis refuses a time that its milliseconds cannot hold
PERIOD_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])(?: burst ([1-9][0-9]{0,8}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in a period, and so many at once after a rest."""

    count: int
    period_seconds: int
    burst: int

    @staticmethod
    def parse(text: str | None) -> Rate | None:
        """From `100/s`, `600/m` or `100/s burst 200` (without a burst it is the count); None from nothing. Raises ValueError."""
        if not text or not text.strip():
            return None
        match = _RATE.fullmatch(text.strip())
        if match is None:
            raise ValueError("must look like 100/s, 600/m or 100/s burst 200")
        return Rate(int(match[1]), PERIOD_SECONDS[match[2]], int(match[3] or match[1]))

    @property
    def unit_us(self) -> float:
        """Microseconds until one more may come."""
        return self.period_seconds * 1e6 / self.count

    @property
    def window_seconds(self) -> int:
        """How long an empty bucket takes to be full."""
        return max(1, math.ceil(self.burst * self.unit_us / 1e6))


def _origins(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """From a list by commas. Raises ValueError for what no browser sends as an origin, `*` and `null` included."""
    found = tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin} is no origin: write each as browsers send it, https://host or https://host:port")
    return found


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
MaybeRate = Annotated[Rate | None, NoDecode, BeforeValidator(Rate.parse)]


class Settings(BaseSettings):
    """The settings of one process. Build it with `load()`, which words errors for operators."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    database_url: str = Field(description="Postgres, as postgresql://user:password@host:port/name; several hosts by commas")
    owner_url: str | None = Field(None, description="Postgres as the role that owns the tables; the DATABASE_URL when unset")
    redis_url: str = Field(description="Valkey or Redis, as redis://host:port/0 (rediss:// for TLS; ?cluster=true)")
    redis_replicas: int = Field(0, ge=0, le=8, description="replicas that must have a command on disk before its 202")
    broker_url: str | None = Field(None, description="Celery's broker, redis://… or RabbitMQ as amqp://…; the Redis when unset")
    partitions: int = Field(4, ge=1, le=1024, description="lanes that sessions are hashed into; counts at the first migration")
    max_queued: int = Field(100_000, ge=1, description="commands that may wait in one partition; more get 503")
    batch_size: int = Field(1000, ge=1, le=5000, description="commands applied in one transaction, at most")
    auth: Literal["open", "keys"] = Field("open", description="who may call; open listens on loopback only")
    first_key: str | None = Field(None, description="a key with every scope, made by the migration where there is none yet")
    key: str | None = Field(None, description="the key that the command line calls the API with")
    host: str = Field("127.0.0.1", description="address the API listens on")
    port: int = Field(8000, ge=1, le=65535, description="port the API listens on")
    api_processes: int = Field(2, ge=1, le=64, description="gunicorn worker processes")
    worker_processes: int = Field(2, ge=1, le=64, description="Celery worker processes on this machine")
    rate_per_key: MaybeRate = Field(None, description="requests of one API key: 100/s, 600/m burst 1000; unset: any")
    rate_per_address: MaybeRate = Field(None, description="requests from one address, in the same words")
    max_waits_per_key: int = Field(1000, ge=0, description="requests of one key that may wait in one API process at once")
    cors_origins: Origins = Field((), description="origins whose pages may call the API, as https://host[:port], by commas")
    trusted_proxies: str = Field("", description="addresses and networks whose X-Forwarded-For is believed, by commas")
    max_connections: int = Field(10_000, ge=1, description="connections of one API process; more get 503")
    max_connections_per_address: int = Field(2000, ge=0, description="of them from one address, proxies apart; 0: any")
    head_seconds: Seconds = Field(10.0, description="how long a request's head may take to arrive")
    body_seconds: Seconds = Field(30.0, description="how long its body may take")
    idle_seconds: Seconds = Field(75.0, description="how long a connection may rest between requests")
    send_seconds: Seconds = Field(30.0, description="how long a client may take nothing of its answer")
    read_cache_mb: int = Field(64, ge=0, le=65_536, description="megabytes of answers that an API process keeps; 0: none")
    job_ttl_seconds: int = Field(
        86_400, ge=1, le=JOB_TTL_MAX, description="how long Redis keeps a finished job; Postgres keeps it for good"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    metrics_dir: str | None = Field(None, description="folder where processes of one host share their metrics")
    crash_at: str | None = Field(None, description="tests only: the crash point to arm")

    @field_validator("database_url", "owner_url")
    @classmethod
    def _as_libpq_reads_it(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme, found, rest = url.partition("://")
        if not found or scheme not in {"postgresql", "postgres", "postgresql+psycopg2"}:
            raise ValueError("must begin with postgresql://")
        return f"postgresql://{rest}"

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _a_known_scheme(cls, url: str | None, info: ValidationInfo) -> str | None:
        schemes = SCHEMES if info.field_name == "redis_url" else (*SCHEMES, *BROKER_SCHEMES)
        if url is None or url.startswith(schemes):
            return url
        if url.startswith(("valkey://", "valkeys://")):
            raise ValueError("use redis:// (or rediss://) for Valkey too: the client library knows no valkey://")
        raise ValueError(f"must begin with {', '.join(schemes[:-1])} or {schemes[-1]}")

    @field_validator("trusted_proxies")
    @classmethod
    def _only_networks(cls, text: str) -> str:
        for name in filter(None, map(str.strip, text.split(","))):
            ipaddress.ip_network(name)
        return text

    @field_validator("first_key")
    @classmethod
    def _looks_like_a_key(cls, token: str | None) -> str | None:
        if token and split_token(token) is None:
            raise ValueError("must look like aforo_<12 hex digits>_<64 hex digits>, from random bytes")
        return token or None

    @model_validator(mode="after")
    def _open_stays_at_home(self) -> Settings:
        if self.auth == "open" and not _is_loopback(self.host):
            raise ValueError(
                f"AUTH=open lets anybody in, so it listens on loopback only, not on {self.host}; "
                "set AFORO_AUTH=keys to ask everybody for a key"
            )
        return self

    @model_validator(mode="after")
    def _what_a_cluster_has_not(self) -> Settings:
        if ClusterUrl.parse(self.redis_url) is None:
            return self
        if self.broker_url is None or ClusterUrl.parse(self.broker_url) is not None:
            raise ValueError("Celery knows no cluster, so beside AFORO_REDIS_URL with cluster=true a AFORO_BROKER_URL is needed")
        if self.redis_replicas:
            raise ValueError("a cluster does not wait for replicas: AFORO_REDIS_REPLICAS must be 0 with cluster=true")
        return self

    @cached_property
    def proxies(self) -> tuple[Network, ...]:
        """Whose X-Forwarded-For is believed."""
        return tuple(map(ipaddress.ip_network, filter(None, map(str.strip, self.trusted_proxies.split(",")))))

    @property
    def asked_partitions(self) -> int | None:
        """How many partitions somebody said there are; None: the database's own number holds."""
        return self.partitions if "partitions" in self.model_fields_set else None

    @property
    def owner_database(self) -> str:
        """The URL for what only the owner of the tables may do: migrations, and the commands of operators that change rows."""
        return self.owner_url or self.database_url

    @property
    def celery_broker(self) -> str:
        """The URL Celery connects to."""
        return self.broker_url or self.redis_url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(**overrides: object) -> Settings:
    """Settings from the environment. Raises SettingsConflict with one line for each wrong or missing variable."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        lines = [f"{_variable(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in exc.errors()]
        raise SettingsConflict("The settings cannot be used:\n  " + "\n  ".join(lines)) from exc


def _variable(location: tuple[int | str, ...]) -> str:
    return f"AFORO_{str(location[0]).upper()}: " if location else ""


def strangers(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that begins like a setting and is none: it may be a limit that was meant to hold."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    lines = []
    for name in sorted(name for name in environment if name.startswith(PREFIX) and name not in known):
        meant = difflib.get_close_matches(name, known, 1, ALIKE)
        lines.append(f"{name} is no setting{f': {meant[0]} is' if meant else ''}.")
    return lines
