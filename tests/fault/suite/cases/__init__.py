"""The cases, one module for each sort of fault; importing this registers them all, in the order of the table."""

from importlib import import_module

MODULES = (
    "crashes", "valkey", "fsync", "postgres", "failover", "stalls", "network", "bells", "disks", "poison", "retries", "rollback",
    "repartition", "load", "controls", "models", "fuzz", "soak",
)  # fmt: skip
for name in MODULES:
    import_module(f"{__name__}.{name}")
