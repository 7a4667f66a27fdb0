"""`make bench`: how fast Aforo is, beside the usual designs and the limits of its parts, in one run on one machine.

tests/bench/__main__.py runs it; docs/bench.md is what the last full run wrote.
"""
