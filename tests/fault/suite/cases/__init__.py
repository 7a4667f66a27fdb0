"""The cases, one module for each sort of fault; importing this registers them all, in the order of the table."""

from tests.fault.suite.cases import crashes, disks, fsync, network, postgres, retries, rollback, valkey

__all__ = ["crashes", "disks", "fsync", "network", "postgres", "retries", "rollback", "valkey"]
