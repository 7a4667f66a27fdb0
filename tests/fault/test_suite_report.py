"""What `make faults` says of a case: a row of figures, and what failed."""

from __future__ import annotations

import re

import pytest

from tests.fault.suite import report
from tests.fault.suite.case import CASES, Case, Result, Run, Skipped, carry_out, quantile
from tests.support.stack import Servers


def nobody() -> Servers:
    raise AssertionError("this case needs no servers")


def result_of(run: object) -> Result:
    found = Case("made-up", "made up", "nothing", "always", run, None, False)  # type: ignore[arg-type]
    return carry_out(found, 1, 1.0, 1.0, nobody)


def passes(run: Run) -> None:
    run.injected(1200)
    run.recovered(*(number / 100 for number in range(100)))
    run.require(True, "never said")
    run.note("worth knowing")


def breaks(run: Run) -> None:
    run.require(run.result.injections > 0, "nothing was injected")
    raise RuntimeError("and then it broke")


def is_skipped(_: Run) -> None:
    raise Skipped("needs root")


def test_a_case_that_passes_shows_its_figures() -> None:
    result = result_of(passes)
    assert result.ok
    assert report.cells(result) == ["made up", "1,200", "0", "0", "0", "0", "0", "0", "0.50 s", "0.99 s", "passed"]
    assert report.details(result) == ["worth knowing"]


def test_a_case_that_fails_says_what_failed_and_where_it_broke() -> None:
    result = result_of(breaks)
    assert not result.ok
    first, second = report.details(result)
    assert first == "failed: nothing was injected"
    assert re.fullmatch(r"failed: RuntimeError at test_suite_report.py:\d+: and then it broke", second)
    assert "FAILED" in report.table([result])


def test_a_case_that_cannot_run_here_says_why() -> None:
    result = result_of(is_skipped)
    assert result.ok
    assert report.details(result) == ["skipped: needs root"]
    assert report.cells(result)[-1] == "skipped"


def test_the_document_has_every_case_and_names_neither_host_nor_folder() -> None:
    results = [result_of(run) for run in (passes, breaks, is_skipped)]
    text = report.document(results, 7, 90)
    assert "seed 7" in text
    assert text.count("| made up |") == 3
    for figure in ("cores", "Postgres ", "Valkey ", "Python "):
        assert figure in text
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 5), (1.0, 5)])
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([5, 3, 1, 4, 2], share) == value


def test_every_case_says_what_is_injected_and_when_it_passes() -> None:
    import tests.fault.suite.cases  # noqa: F401

    for found in CASES.values():
        assert found.fault
        assert found.injected
        assert found.passes
