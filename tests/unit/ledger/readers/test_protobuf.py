"""The wire format, by the examples of its documentation and by hand."""

from __future__ import annotations

import pytest

from foretune.ledger.readers.protobuf import all_of, fields, float_of, integer_of, text_of


def test_fields_by_the_examples_of_the_documentation():
    assert list(fields(bytes.fromhex("089601"))) == [(1, 150)]
    assert list(fields(bytes.fromhex("120774657374696e67"))) == [(2, b"testing")]
    assert list(fields(bytes.fromhex("1a03089601"))) == [(3, bytes.fromhex("089601"))]


def test_numbers():
    message = (
        bytes.fromhex("08ffffffffffffffffff01") + b"\x15\x00\x00\x80\x3f" + b"\x19\x00\x00\x00\x00\x00\x00\xf0\x3f"
    )
    assert integer_of(message, 1) == -1
    assert integer_of(message, 9) == 0
    assert [float_of(all_of(message, number)[0]) for number in (2, 3)] == [1.0, 1.0]
    assert text_of(message, 7) is None


@pytest.mark.parametrize("message", ["08", "0896", "1205aa", "15aabb", "0b", "08" + "ff" * 11])
def test_torn_messages_are_refused(message):
    with pytest.raises(ValueError, match="a "):
        list(fields(bytes.fromhex(message)))
