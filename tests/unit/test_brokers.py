"""What Celery is told of each kind of broker."""

from __future__ import annotations

import ssl

import pytest

from core.doorbell import Doorbell, celery_app


@pytest.mark.parametrize("url", ["amqp://a:b@one:5672/aforo", "amqps://a:b@one:5671/aforo"])
def test_rabbitmq_gets_a_quorum_queue_and_redis_what_it_knows(url: str) -> None:
    queue = celery_app(url).amqp.queues["aforo"]
    assert queue.queue_arguments == {"x-queue-type": "quorum"}
    redis = celery_app("redis://one:6379/0")
    assert redis.amqp.queues["aforo"].queue_arguments is None
    assert redis.conf.broker_transport_options["visibility_timeout"] == 120


def test_whoever_only_rings_sends_no_heartbeats_and_is_not_hung_up_on() -> None:
    app = celery_app("amqp://a:b@one:5672/aforo")
    assert app.conf.broker_heartbeat
    Doorbell(app)
    assert app.conf.broker_heartbeat == 0


def test_a_rabbitmq_that_cannot_prove_who_it_is_is_not_believed() -> None:
    app = celery_app("amqps://a:b@one:5671/aforo?ssl_ca_certs=/etc/ca.pem")
    assert app.conf.broker_use_ssl == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "/etc/ca.pem", "server_hostname": "one"}
    assert app.conf.broker_url == "amqps://a:b@one:5671/aforo"
    by_the_system = celery_app("amqps://a:b@one:5671/aforo").conf.broker_use_ssl
    assert (by_the_system["cert_reqs"], by_the_system["ca_certs"]) == (ssl.CERT_REQUIRED, ssl.get_default_verify_paths().cafile)
