"""How many connections a process lets in."""

from __future__ import annotations

from ipaddress import ip_network

from api.connections import Guard, Limits


def test_no_more_than_are_allowed_in_all() -> None:
    guard = Guard(Limits(connections=3))
    assert [guard.admit("10.0.0.1", count) for count in (1, 2, 3, 4)] == [True, True, True, False]


def test_no_more_than_the_system_has_files_for() -> None:
    guard = Guard(Limits(connections=1000))
    guard.allow(2)
    assert [guard.admit("10.0.0.1", count) for count in (2, 3)] == [True, False]
    guard.allow(5000)
    assert guard.limits.connections == 2


def test_no_more_than_are_allowed_from_one_address() -> None:
    guard = Guard(Limits(connections_per_address=2))
    assert [guard.admit("10.0.0.1", 1) for _ in range(3)] == [True, True, False]
    assert guard.admit("10.0.0.2", 1)
    guard.leave("10.0.0.1")
    assert guard.admit("10.0.0.1", 1)


def test_an_address_that_has_left_is_forgotten() -> None:
    guard = Guard(Limits())
    guard.admit("10.0.0.1", 1)
    guard.leave("10.0.0.1")
    assert guard._of_address == {}


def test_everybody_comes_from_a_trusted_proxy_so_it_counts_for_no_one() -> None:
    guard = Guard(Limits(connections_per_address=1, proxies=(ip_network("10.0.0.0/24"), ip_network("fd00::/8"))))
    assert [guard.admit(address, 1) for address in ("10.0.0.7", "10.0.0.7", "fd00::1", "fd00::1")] == [True] * 4
    assert [guard.admit("10.0.1.7", 1) for _ in range(2)] == [True, False]
