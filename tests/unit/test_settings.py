"""Settings: what is refused at the start, and in which words."""

from __future__ import annotations

import os

import pytest

from core.errors import SettingsConflict
from core.settings import load, strangers

GOOD = {"AFORO_DATABASE_URL": "postgresql://u:p@db:5432/aforo", "AFORO_REDIS_URL": "redis://cache:6379/0"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AFORO_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_two_urls_are_enough() -> None:
    settings = load()
    assert settings.database_url == "postgresql://u:p@db:5432/aforo"
    assert (settings.celery_broker, settings.partitions, settings.host) == ("redis://cache:6379/0", 4, "127.0.0.1")


def test_proxies_are_addresses_and_networks_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().proxies == ()
    monkeypatch.setenv("AFORO_TRUSTED_PROXIES", "10.0.0.1, 192.168.0.0/16 ,fd00::/8")
    assert [str(network) for network in load().proxies] == ["10.0.0.1/32", "192.168.0.0/16", "fd00::/8"]


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_url_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsConflict, match=missing):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AFORO_DATABASE_URL", "mysql://db/aforo"),
        ("AFORO_DATABASE_URL", "db:5432"),
        ("AFORO_REDIS_URL", "valkey://cache:6379"),
        ("AFORO_REDIS_URL", "amqp://queue:5672"),
        ("AFORO_REDIS_URL", "cache:6379"),
        ("AFORO_BROKER_URL", "kafka://queue:9092"),
        ("AFORO_JOB_TTL_SECONDS", "99999999999999999"),
        ("AFORO_PARTITIONS", "0"),
        ("AFORO_PARTITIONS", "many"),
        ("AFORO_BATCH_SIZE", "0"),
        ("AFORO_MAX_QUEUED", "-1"),
        ("AFORO_PORT", "70000"),
        ("AFORO_LOG_LEVEL", "loud"),
        ("AFORO_AUTH", "none"),
        ("AFORO_CORS_ORIGINS", "*"),
        ("AFORO_CORS_ORIGINS", "null"),
        ("AFORO_CORS_ORIGINS", "https://shop.example.org, https://shop.example.org/path"),
        ("AFORO_CORS_ORIGINS", "shop.example.org"),
        ("AFORO_TRUSTED_PROXIES", "proxy.example.org"),
        ("AFORO_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("AFORO_HEAD_SECONDS", "0"),
        ("AFORO_MAX_CONNECTIONS", "0"),
        ("AFORO_FIRST_KEY", "letmein"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsConflict, match=name):
        load()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFORO_PORT", "0")
    monkeypatch.setenv("AFORO_PARTITIONS", "0")
    with pytest.raises(SettingsConflict) as caught:
        load()
    assert "AFORO_PORT" in str(caught.value)
    assert "AFORO_PARTITIONS" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "fine"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("x", False)]
)
def test_open_stays_at_home(monkeypatch: pytest.MonkeyPatch, host: str, fine: bool) -> None:
    monkeypatch.setenv("AFORO_HOST", host)
    if fine:
        assert load().host == host
        return
    with pytest.raises(SettingsConflict, match="loopback"):
        load()
    monkeypatch.setenv("AFORO_AUTH", "keys")
    assert load().host == host


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1


def test_what_looks_like_a_setting_and_is_none_is_told() -> None:
    given = {"AFORO_RATE_PER_ADRESS": "100/s", "AFORO_PORT": "1", "AFORO_SERVICE_HOST": "10.0.0.1", "PATH": "/bin"}
    assert strangers(given) == [
        "AFORO_RATE_PER_ADRESS is no setting: AFORO_RATE_PER_ADDRESS is.",
        "AFORO_SERVICE_HOST is no setting.",
    ]
