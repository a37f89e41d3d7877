"""The header reads back equal, and settings that changed are named."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.errors import JournalError, UsageError
from foretune.journal import check_header
from foretune.journal.header import header_to_json, jsonable

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
headers = st.dictionaries(st.text(), plain, max_size=5)

HEADER = {
    "method": {"name": "lozo", "rank": 2, "lr": 1e-6},
    "parameters": [["embed.weight", [8, 4]], ["head.bias", [8]]],
    "seed": 0,
}


@given(headers)
@settings(max_examples=50)
def test_a_header_reads_back_equal(header: dict) -> None:
    restored = json.loads(header_to_json(header))
    assert restored == header
    assert repr(restored) == repr(header)  # 1 is not 1.0 or True, 0.0 is not -0.0, and the order is kept


def test_tuples_are_stored_as_lists() -> None:
    assert json.loads(header_to_json({"shape": (2, (3,))})) == {"shape": [2, [3]]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"method": {"lr": math.nan}}, "'method.lr' is nan"),
        ({"sizes": [1.0, math.inf]}, r"'sizes\[1\]' is inf"),
        ({"engine": {"dtype": torch.float16}}, "'engine.dtype' is of type dtype"),
        ({"blocks": {3: "a"}}, "key 3 in 'blocks' is no string"),
    ],
)
def test_a_value_that_would_not_read_back_is_named(header: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        jsonable(header)


@given(headers)
@settings(max_examples=20)
def test_equal_headers_pass(header: dict) -> None:
    check_header(json.loads(header_to_json(header)), header)


def test_a_tuple_equals_the_list_it_was_stored_as() -> None:
    check_header({"shape": [2, 3]}, {"shape": (2, 3)})


def test_each_changed_setting_is_named_with_both_values() -> None:
    now = {**HEADER, "method": {"name": "lozo", "rank": 4, "interval": 50}}
    with pytest.raises(JournalError) as caught:
        check_header(HEADER, now)
    message = str(caught.value)
    assert "setting 'method.rank' was 2 when the run began and is 4 now" in message
    assert "setting 'method.lr' was 1e-06 when the run began and is not set now" in message
    assert "setting 'method.interval' was not set when the run began and is 50 now" in message
    assert "method.name" not in message
    assert "begin a new run" in message


def test_a_changed_entry_of_a_list_is_named_by_its_index() -> None:
    now = {**HEADER, "parameters": [["embed.weight", [8, 5]], ["head.bias", [8]]]}
    with pytest.raises(JournalError, match=r"'parameters\[0\]\[1\]\[1\]' was 4 when the run began and is 5 now"):
        check_header(HEADER, now)


def test_lists_of_different_length_are_given_with_their_lengths() -> None:
    now = {**HEADER, "parameters": HEADER["parameters"][:1]}
    with pytest.raises(JournalError, match=r"'parameters' was .*\(2 entries\) .* is .*\(1 entries\) now"):
        check_header(HEADER, now)


def test_ten_settings_are_named_and_the_rest_counted() -> None:
    with pytest.raises(JournalError) as caught:
        check_header({f"s{i}": 0 for i in range(13)}, {f"s{i}": 1 for i in range(13)})
    assert str(caught.value).count("setting '") == 10
    assert "and 3 more" in str(caught.value)


@pytest.mark.parametrize(
    ("ignore", "passes"),
    [
        (("method.rank",), True),
        (("method",), True),  # covers everything under it
        (("meth", "method.r", "method.rank.x"), False),  # whole names, not beginnings of words
    ],
)
def test_ignored_settings_may_differ(ignore: tuple[str, ...], passes: bool) -> None:
    now = {**HEADER, "method": {**HEADER["method"], "rank": 4}}
    if passes:
        check_header(HEADER, now, ignore)
    else:
        with pytest.raises(JournalError, match=r"method\.rank"):
            check_header(HEADER, now, ignore)


def test_an_ignored_list_covers_its_entries() -> None:
    check_header({"threads": [1, 2]}, {"threads": [1, 3]}, ignore=("threads",))
