"""Identifiers of C-FIND without a network: every key of the dictionary, and hostile values."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from iap_node.dicom.commitment import InvalidRequest, read_request
from iap_node.dicom.query import BY_KEYWORD, UnanswerableQuery, read_query
from iap_node.listener.query import write_match

NO_KEYS = {"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"}


@pytest.mark.parametrize("implicit", [True, False])
def test_every_key_of_the_dictionary_may_be_asked_for_and_comes_back(implicit: bool) -> None:
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE"
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword and keyword not in NO_KEYS and tag >> 16 not in (0x0000, 0x0002, 0xFFFE):
            ds.add_new(tag, vr.partition(" or ")[0], [] if vr == "SQ" else None)
    query = read_query(ds)
    assert len(query.wanted) > 4000
    encoded = encode(write_match(query, {"Rows": 4, "InstanceNumber": 7}), implicit, True)
    assert encoded
    answer = decode(BytesIO(encoded), implicit, True)
    assert len(answer) == len(query.wanted) + 1 and (answer.Rows, answer.InstanceNumber) == (4, 7)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*BY_KEYWORD, "PatientID", "QueryRetrieveLevel", "Laterality", "StudyTime"})),
        st.binary(max_size=70),
        max_size=6,
    ),
    st.booleans(),
)
def test_an_identifier_of_any_bytes_is_read_or_refused_without_its_values(
    values: dict[str, bytes], level: bool
) -> None:
    encoded = _encoded(values | ({"QueryRetrieveLevel": b"SERIES"} if level else {}))
    ds = decode(BytesIO(encoded), True, True)
    try:
        query = read_query(ds)
    except UnanswerableQuery as error:
        assert not any(len(value) > 8 and value.decode("latin-1") in str(error) for value in values.values())
        return
    assert encode(write_match(query, {}), False, True)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=70), st.binary(max_size=200))
def test_action_information_of_any_bytes_is_read_or_refused(transaction_uid: bytes, items: bytes) -> None:
    sequence = tag_for_keyword("ReferencedSOPSequence") or 0
    encoded = _element(sequence, items) + _encoded({"TransactionUID": transaction_uid})
    try:
        ds = decode(BytesIO(encoded), True, True)
        uid, references = read_request(ds)
    except (InvalidRequest, ValueError, OSError, EOFError, KeyError, NotImplementedError, AttributeError):
        return  # the handler answers each
    assert uid and references


def _encoded(values: dict[str, bytes]) -> bytes:
    by_tag = {tag_for_keyword(keyword) or 0: value for keyword, value in values.items()}
    return b"".join(_element(tag, by_tag[tag]) for tag in sorted(by_tag))


def _element(tag: int, value: bytes) -> bytes:
    padded = value + b" " * (len(value) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(padded)) + padded
