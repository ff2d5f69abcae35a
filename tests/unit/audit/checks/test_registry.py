"""All checks together: what each says of itself, order and number of findings, and that no header breaks them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag

from iap_node.audit.checks import CHECKS, check_series
from iap_node.audit.checks.__main__ import page
from iap_node.audit.checks.check import RAW_TEXT_LIMIT
from iap_node.dicom.codestreams import CodestreamHeader
from iap_node.dicom.statements import Image, InstanceStatements, PixelsThere, Stated
from iap_node.records import Finding
from tests.unit.audit.checks.statements import by_name, frames, instance, series, stated, with_odd

HOSTILE = (
    "", " ", "\\", "\\\\\\\\\\", "0", "-0", "1e308", "-1e308", "1e-320", "9" * 400, "nan", "inf", "1,5", "3 ms", "1.5T",
    "1e308\\1e308\\1e308\\1e308\\1e308\\1e308", "0\\0\\0\\0\\0\\0", "0\\0\\0\\0", "1\\2\\3", "1e308\\0\\0\\1e308",
    "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "\x1b[31mred\x1b[0m", "../../etc/passwd",
    "\u202egnp.exe", "'", "A" * 2000,
    "ORIGINAL\\PRIMARY", "DERIVED", "MOSAIC", "GR", "SE\\EP", "3D", "2D", "ROW", "COL", "RGB", "1H", "SIEMENS",
    "GE", "20240101",
)  # fmt: skip
WANTED = sorted(tag for check in CHECKS for tag in check.elements if tag < 0x52000000 and keyword_for_tag(tag))


def test_there_are_as_many_checks_as_promised_each_with_its_own_name() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 25


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_says_what_it_asks_by_what_right_and_whom_it_forgives(check: object) -> None:
    found = by_name(check.name)  # type: ignore[attr-defined]
    assert found.elements and all(keyword_for_tag(tag) for tag in found.elements)
    assert found.rule and found.source and found.forgives
    assert found.examine.__doc__


def test_one_finding_per_element_and_check_counts_the_instances() -> None:
    findings = check_series([*series(6), *(instance(SOPInstanceUID=f"1.9.{n}", EchoTime="2,46") for n in range(2))])
    echo = [finding for finding in findings if finding.check == "not-a-number"]
    assert [(finding.element, finding.raw) for finding in echo] == [("EchoTime", "2,46")]
    assert echo[0].evidence.endswith("(2 of 8 instances)")


def test_findings_do_not_depend_on_the_order_of_instances_and_checks() -> None:
    instances = with_odd(series(9), FlipAngle="8", PatientPosition="hfs", EchoTime="x", SeriesNumber="3")
    findings = check_series(instances)
    assert len(findings) > 4
    assert [finding.element for finding in findings] == sorted(
        (finding.element for finding in findings), key=lambda keyword: min(_tag(keyword), 0xFFFFFFFF)
    )
    shuffled, checks = list(instances), list(CHECKS)
    random.Random(7).shuffle(shuffled)
    random.Random(8).shuffle(checks)
    assert check_series(shuffled, checks) == findings


def _tag(keyword: str) -> int:
    return next(tag for tag in WANTED if keyword_for_tag(tag) == keyword)


def test_a_series_without_instances_has_no_findings() -> None:
    assert check_series([]) == ()


def test_what_is_not_an_mr_image_is_left_out() -> None:
    spectrum = instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.2", EchoTime="nan")
    assert check_series([spectrum, instance()]) == ()


def _is_presentable(finding: Finding) -> bool:
    return finding.evidence.isprintable() and len(finding.raw) <= RAW_TEXT_LIMIT and len(finding.evidence) < 1000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(WANTED), st.sampled_from(HOSTILE) | st.text(max_size=40), max_size=12),
        min_size=1,
        max_size=7,
    ),
    st.booleans(),
)
def test_no_header_breaks_a_check_and_evidence_is_printable(changes: list[dict[int, str]], enhanced: bool) -> None:
    instances = []
    for number, change in enumerate(changes):
        base = frames(3) if enhanced else instance(ImagePositionPatient=f"0\\0\\{number}")
        hostile = {tag: Stated(tag, base_vr(tag), raw) for tag, raw in change.items()}
        identity = stated({"SOPClassUID": base.sop_class_uid, "SOPInstanceUID": f"1.2.{number}"})
        images = tuple(
            Image({**image.stated, **hostile, **identity}, image.is_frame, _places(image, hostile), image.groups)
            for image in base.images
        )
        top = Image({**base.top.stated, **hostile, **identity}) if enhanced else images[0]
        codestream = CodestreamHeader(0, 2**31, 7, 64)
        pixels = PixelsThere(0x7FE00010, None, 0, number, bool(number % 2), codestream) if number % 2 else base.pixels
        instances.append(dataclasses.replace(base, top=top, images=images, pixels=pixels))
    assert all(_is_presentable(finding) for finding in check_series(instances))


def base_vr(tag: int) -> str:
    return next(iter(stated({keyword_for_tag(tag): ""}).values())).vr


def _places(image: Image, hostile: dict[int, Stated]) -> tuple[dict[int, Stated], ...]:
    position = 0x00200032
    return tuple(
        {**place, position: hostile[position]} if position in hostile else dict(place) for place in image.places
    )


def test_instances_are_not_changed() -> None:
    one: InstanceStatements = instance()
    before = dict(one.top.stated)
    check_series([one, one])
    assert one.top.stated == before


def test_the_page_of_checks_is_what_the_checks_say() -> None:
    """`python -m iap_node.audit.checks > docs/header-checks.md` writes it anew."""
    written = Path(__file__).resolve().parents[4] / "docs" / "header-checks.md"
    assert written.read_text(encoding="utf-8") == page()
