"""Dominant and variant groups: which series stand together, and what is told of them."""

from __future__ import annotations

import pytest

from iap_node.audit.groups import ProtocolGroups, classify, describe, populate
from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.protocol import BY_NAME, Meaning, ProtocolElement
from iap_node.records import PastSeries
from tests.unit.audit.past_series import FIRST, PROTOCOL, past

NOTHING = Vocabulary()


def groups(series: list[PastSeries]) -> ProtocolGroups:
    return describe(populate(series, {}, NOTHING))


def test_the_largest_group_is_dominant_and_the_others_say_what_differs() -> None:
    series = [past(n) for n in range(6)] + [past(6 + n, EchoTime="3.69", FlipAngle="15") for n in range(3)]
    found = groups(series)
    assert (found.model, found.serial_number, found.protocol, found.n_series) == ("Skyra", "45001", PROTOCOL, 9)
    assert [(one.rank, one.n_series, one.n_studies) for one in found.groups] == [(1, 6, 6), (2, 3, 3)]
    assert found.dominant.differences == ()
    (variant,) = found.variants
    assert {(one.element, one.usual, one.here) for one in variant.differences} == {
        ("EchoTime", "2.46", "3.69"),
        ("FlipAngle", "10", "15"),
    }
    assert variant.series == ("study 6/6", "study 7/7", "study 8/8")
    assert found.dominant.since == FIRST


def test_what_people_adapt_divides_no_groups() -> None:
    series = [past(n, FieldOfView=str(300 + n), AcquisitionMatrix=f"448x{300 + n}") for n in range(8)]
    series += [past(8, PatientPosition="HFS", NumberOfSlices="120")]
    assert len(groups(series).groups) == 1


def test_what_varies_freely_divides_no_groups_and_is_named() -> None:
    found = groups([past(n, EchoTime=str(2 + n / 5)) for n in range(20)])
    assert (len(found.groups), found.free) == (1, ("EchoTime",))


def test_few_series_are_too_few_to_call_anything_free() -> None:
    found = groups([past(n, EchoTime=str(2 + n / 5)) for n in range(5)])
    assert (len(found.groups), found.free) == (5, ())


def test_a_series_that_leaves_an_element_out_joins_the_largest_group_that_it_does_not_contradict() -> None:
    series = [past(n) for n in range(3)] + [past(3 + n, EchoTime="3.69") for n in range(5)]
    series += [past(8, EchoTime=None), past(9, EchoTime=None, FlipAngle="15")]
    found = groups(series)
    assert [one.n_series for one in found.groups] == [6, 3, 1]
    assert "study 8/8" in found.dominant.series
    assert dict(found.dominant.values)["EchoTime"] == "3.69"


def test_what_no_series_states_is_in_no_reference() -> None:
    found = groups([past(n, PixelBandwidth=None) for n in range(4)])
    assert "PixelBandwidth" not in dict(found.dominant.values)


def test_near_values_make_no_chain() -> None:
    echo_time = BY_NAME["EchoTime"]  # 1 %
    texts: list[str | None] = ["10"] * 5 + ["10.09", "10.18", "10.27"]
    found = classify(echo_time, texts, {}, NOTHING)
    assert found.sizes == (6, 2)
    assert found.of == (0, 0, 0, 0, 0, 0, 1, 1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_classes_are_the_same_whatever_the_order(n: int) -> None:
    texts: list[str | None] = [f"{2 + (i * 7 % 40) / 100:g}" for i in range(60)]
    forward = classify(BY_NAME["EchoTime"], texts, {}, NOTHING)
    turned = texts[n:] + texts[:n]
    backward = classify(BY_NAME["EchoTime"], turned, {}, NOTHING)
    assert sorted(forward.sizes) == sorted(backward.sizes)
    assert forward.texts == backward.texts


def test_comparisons_grow_with_the_number_of_series_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    same, n_calls = ProtocolElement.same, 0

    def counted(element: ProtocolElement, one: Meaning, other: Meaning, tolerance: float | None = None) -> bool:
        nonlocal n_calls
        n_calls += 1
        return same(element, one, other, tolerance)

    monkeypatch.setattr(ProtocolElement, "same", counted)

    def comparisons(n: int) -> int:
        before = n_calls
        populate([past(i, EchoTime=str(2 + (i * 37 % 9973) / 5000)) for i in range(n)], {}, NOTHING)
        return n_calls - before

    assert 0 < comparisons(800) < 6 * comparisons(200)  # four times as many series; sixteen were the square
