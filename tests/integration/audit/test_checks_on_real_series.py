"""The header checks on all 39 real series: what they must find, that they find nothing else, and what they see of harm.

The corpus has no breast MR and none of the seven GE series whose Spacing Between Slices is wrong. Corruptions are made
of what was read (see corruptions.py).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from iap_node.audit.checks import CHECKS, check_series, tags
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import Finding
from tests.integration.audit import corruptions as harm

UIH_DATES = {("StudyDate", "date-or-time"), ("SeriesDate", "date-or-time"), ("ContentDate", "date-or-time")}
# Element and check of every finding that the oddities of MANIFEST.csv are; all other series have none.
EXPECTED: dict[str, set[tuple[str, str]]] = {
    "siemens_trio_b17_same_image_9_transfer_syntaxes": {("SeriesNumber", "one-series-number")},
    "toshiba_mrt50h1_no_fieldstrength_bigendian_and_j2k": {
        ("MagneticFieldStrength", "field-strength-missing"),
        ("ImagedNucleus", "nucleus-without-mass-number"),
    },
    "uih_umr770_dti_vframe_mosaic_study2": {*UIH_DATES, ("ImagingFrequency", "imaging-frequency-unit")},
    "uih_umr770_t1_gre_3d_sag_study2": {
        *UIH_DATES,
        ("AcquisitionDate", "date-or-time"),
        ("ImagingFrequency", "imaging-frequency-unit"),
        ("AcquisitionDuration", "acquisition-duration-unit"),
    },
}
SUGGESTED = {
    ("toshiba_mrt50h1_no_fieldstrength_bigendian_and_j2k", "MagneticFieldStrength"): "1.5",
    ("toshiba_mrt50h1_no_fieldstrength_bigendian_and_j2k", "ImagedNucleus"): "1H",
    ("uih_umr770_dti_vframe_mosaic_study2", "ImagingFrequency"): "128.176051",
    ("uih_umr770_t1_gre_3d_sag_study2", "ImagingFrequency"): "128.176091",
    ("uih_umr770_t1_gre_3d_sag_study2", "AcquisitionDuration"): "188.717",
}
LEAST_FOUND = 0.9


def _by_element(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(finding.element, finding.check) for finding in findings}


def test_the_oddities_of_the_manifest_are_found_and_nothing_else_is_said(
    findings: dict[str, tuple[Finding, ...]],
) -> None:
    assert len(findings) == 39
    said = {folder: _by_element(found) for folder, found in findings.items() if found}
    assert said == EXPECTED


def test_the_right_values_are_suggested(findings: dict[str, tuple[Finding, ...]]) -> None:
    suggested = {
        (folder, finding.element): finding.suggested_value
        for folder, found in findings.items()
        for finding in found
        if finding.suggested_value is not None
    }
    assert suggested == SUGGESTED


def test_the_evidence_has_the_numbers(findings: dict[str, tuple[Finding, ...]]) -> None:
    evidence = {finding.element: finding.evidence for finding in findings["uih_umr770_t1_gre_3d_sag_study2"]}
    assert "written in Hz it is 128.176 MHz" in evidence["ImagingFrequency"]
    assert "(3 of 3 instances)" in evidence["ImagingFrequency"]
    assert "'***'" in evidence["StudyDate"]


def test_the_order_of_the_instances_does_not_matter(
    corpus: dict[str, list[InstanceStatements]], findings: dict[str, tuple[Finding, ...]]
) -> None:
    for folder in EXPECTED:
        assert check_series(corpus[folder][::-1]) == findings[folder]


def test_one_image_in_nine_transfer_syntaxes_states_the_same_but_for_what_names_it(
    corpus: dict[str, list[InstanceStatements]],
) -> None:
    named_apart = {0x00080018, 0x00200011, 0x00080012, 0x00080013}
    twins = corpus["siemens_trio_b17_same_image_9_transfer_syntaxes"]
    stated = [
        {tag: one.raw for tag, one in instance.top.stated.items() if tag not in named_apart} for instance in twins
    ]
    assert len(twins) == 9
    assert all(one == stated[0] for one in stated)


@pytest.mark.slow
def test_nine_in_ten_of_the_harm_that_a_header_can_show_is_found(
    corpus: dict[str, list[InstanceStatements]], findings: dict[str, tuple[Finding, ...]]
) -> None:
    """In all, and of each kind of harm; a hit is a new finding of a check that looks at an element that was touched.

    Each check has its harm among them: it is within reach of real headers, which it leaves alone when they are sound.
    """
    kinds = (
        harm.written_wrong, harm.missing, harm.in_other_units, harm.contradicting, harm.wrong_terms, harm.wrong_pixels,
        harm.one_of_many, harm.of_few,
    )  # fmt: skip
    made: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    missed: dict[str, list[str]] = defaultdict(list)
    spoke: set[str] = set()
    for folder, instances in corpus.items():
        known = _by_element(findings[folder])
        for kind in kinds:
            if kind is harm.missing and not harm.are_classic(instances):
                continue
            for corruption in kind(instances):
                if not corruption.visible:
                    continue
                asked = [check for check in CHECKS if set(check.elements) & set(corruption.touched)]
                new = _by_element(check_series(corruption.instances, asked)) - known
                found = bool(new)
                spoke |= {check for _, check in new}
                made[kind.__name__] += 1
                hits[kind.__name__] += found
                if not found:
                    missed[kind.__name__].append(f"{corruption.name} in {folder}")
    shares = {name: hits[name] / made[name] for name in made}
    print({name: f"{hits[name]} of {made[name]}" for name in made})
    assert spoke == {check.name for check in CHECKS}
    assert set(made) == {kind.__name__ for kind in kinds}
    assert min(made.values()) > 50
    assert all(share >= LEAST_FOUND for share in shares.values()), (shares, missed)


def _without_names(instances: list[InstanceStatements]) -> list[InstanceStatements]:
    """As de-identification leaves a series: other UIDs, no dates, no serial number, no private blocks."""
    tags_gone = (tags.STUDY_DATE, tags.SERIES_DATE, tags.ACQUISITION_DATE, tags.CONTENT_DATE, tags.DEVICE_SERIAL_NUMBER)
    changes: dict[int, harm.Change] = {tag: harm.to("") for tag in tags_gone}
    changes |= {tag: harm.to("1.2.826.0.1.3680043.8.1") for tag in (tags.STUDY_INSTANCE_UID, tags.SERIES_INSTANCE_UID)}
    others = []
    for number, one in enumerate(instances):
        changes[tags.SOP_INSTANCE_UID] = harm.to(f"1.2.826.0.1.3680043.8.2.{number}")
        is_sheet = one.grid is not None  # its tiles are counted in a private block: that stays
        renamed = harm.all_changed([one], changes)[0]
        others.append(renamed if is_sheet else dataclasses.replace(renamed, creators=frozenset()))
    return others


def _jittered(instances: list[InstanceStatements]) -> list[InstanceStatements]:
    """As another writer prints the same numbers: every other instance with a last digit more or less."""
    printed = (tags.SPACING_BETWEEN_SLICES, tags.REPETITION_TIME, tags.IMAGING_FREQUENCY, tags.PIXEL_SPACING)
    return [
        one
        if number % 2
        else harm.all_changed([one], {tag: harm.times(1.0000001) for tag in printed if one.images[0].text(tag)})[0]
        for number, one in enumerate(instances)
    ]


@pytest.mark.parametrize("change", [_without_names, _jittered, lambda instances: instances[::2]])
def test_what_exports_legitimately_do_to_a_series_is_no_finding(
    corpus: dict[str, list[InstanceStatements]], change: Callable[[list[InstanceStatements]], list[InstanceStatements]]
) -> None:
    said = {folder: _by_element(found) for folder, one in corpus.items() if (found := check_series(change(list(one))))}
    assert all(found <= EXPECTED.get(folder, set()) for folder, found in said.items()), said
