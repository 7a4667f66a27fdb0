"""What people may type: names, addresses, texts, times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import example, given
from hypothesis import strategies as st

from core import validation


@pytest.mark.parametrize("value", ["Ana", "  Ana  ", "x" * 100, "Zoë", "李", "O'Brien", "عَلِيّ", "a\u200db", "\u202eabc"])
def test_lines_that_people_write_are_taken(value: str) -> None:
    assert validation.line(value, 100) == value.strip()


@pytest.mark.parametrize("value", ["", "   ", "x" * 101, "a\nb", "a\tb", "a\x00b", "a\x7fb", "a\x85b", "\ud800", "a\u2028b"])
def test_lines_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"must"):
        validation.line(value, 100)


@given(st.text(max_size=120))
def test_a_line_is_taken_or_refused_and_never_changed_within(value: str) -> None:
    try:
        taken = validation.line(value, 100)
    except ValueError:
        return
    assert taken == value.strip()
    assert "\x00" not in taken
    taken.encode("utf-8")


def test_blocks_may_have_line_breaks() -> None:
    assert validation.block("one\n\ttwo\r\nthree", 100) == "one\n\ttwo\r\nthree"
    with pytest.raises(ValueError, match="control"):
        validation.block("one\x1btwo", 100)


@pytest.mark.parametrize(
    ("given_", "kept", "key"),
    [
        ("ana@example.org", "ana@example.org", "ana@example.org"),
        (" Ana.B+x@Example.ORG ", "Ana.B+x@example.org", "ana.b+x@example.org"),
        ("ANA@BÜCHER.example", "ANA@bücher.example", "ana@xn--bcher-kva.example"),
        ("Straße@example.org", "Straße@example.org", "strasse@example.org"),
        ("Ἀνα@example.org", "Ἀνα@example.org", "ἀνα@example.org"),
    ],
)
def test_an_address_is_kept_as_written_and_compared_by_its_key(given_: str, kept: str, key: str) -> None:
    if given_.startswith("ANA@B"):
        given_ = given_.replace(".example", ".example.org")
        kept, key = kept.replace(".example", ".example.org"), key.replace(".example", ".example.org")
    assert validation.email(given_) == (kept, key)


@pytest.mark.parametrize(
    "value",
    ["", "ana", "@example.org", "ana@", "a b@example.org", "ana@example..org", "ana@[127.0.0.1]", "a\x00@example.org", "x" * 300],
)
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must"):
        validation.email(value)


def test_times_are_kept_in_utc_to_the_millisecond() -> None:
    moment = datetime(2031, 5, 1, 18, 0, 0, 123_999, timezone(timedelta(hours=2)))
    assert validation.moment(moment) == datetime(2031, 5, 1, 16, 0, 0, 123_000, UTC)
    with pytest.raises(ValueError, match="offset"):
        validation.moment(datetime(2031, 5, 1))  # noqa: DTZ001  on purpose
    with pytest.raises(ValueError, match="years"):
        validation.moment(datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))))


@pytest.mark.parametrize(("value", "good"), [(0, True), (1_000_000, True), (-1, False), (1_000_001, False)])
def test_capacities(value: int, good: bool) -> None:
    if good:
        assert validation.capacity(value) == value
    else:
        with pytest.raises(ValueError, match="from 0 to 1000000"):
            validation.capacity(value)


LABEL = st.from_regex(r"[A-Za-z0-9-]{1,12}", fullmatch=True)
DOMAIN = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.sampled_from(
        [
            "example.org",
            "EXAMPLE.org",
            "xn--bcher-kva.example.org",
            "xn--a.org",
            "a.test",
            "b.local",
            "a..b.org",
            "a.b-.org",
            "1.2.3.4",
        ]
    ),
)
LOCAL = st.from_regex(r"[A-Za-z0-9_+.-]{1,70}", fullmatch=True)


@given(LOCAL, DOMAIN)
@example("WWW", "example.org")
@example("PostMaster", "EXAMPLE.org")
@example("WWW.info", "example.org")
def test_plain_addresses_are_judged_and_written_as_the_library_would(local: str, domain: str) -> None:
    address = f"{local}@{domain}"
    try:
        found = validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        with pytest.raises(ValueError, match="must be an e-mail address"):
            validation.email(address)
        return
    expected = (found.normalized, f"{found.local_part.casefold()}@{found.ascii_domain.lower()}")
    assert validation.email(address) == expected


@pytest.mark.parametrize(
    ("text", "days"), [("1d", 1), ("90d", 90), (" 12w ", 84), ("2y", 730), ("36500d", 36_500), ("100y", 36_500)]
)
def test_ages_are_days_weeks_or_years(text: str, days: int) -> None:
    assert validation.age(text) == timedelta(days=days)


@pytest.mark.parametrize(
    "text", ["", "0d", "00w", "90", "d", "-1d", "1.5d", "90D", "90 d", "1h", "1m", "101y", "99999d", "100000d", "\u0661d"]
)
def test_what_is_no_age_or_too_young_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="like 90d, 12w or 2y; 1d at least"):
        validation.age(text)
