"""The fault suite: every fault of docs/faults.md against a whole running stack, and a checker that shares no code with core.

`make faults` runs it (`__main__.py`); `tests/fault/test_suite.py` runs some of it, shrunk, in `make test`.
"""
