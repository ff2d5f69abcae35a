"""Whatever stands in headers, habits are learned or not, and what is said of them is printable and short."""

from __future__ import annotations

import random

import pytest
import yaml

from iap_node.audit.folder_habits import compare_series, spellings
from iap_node.audit.protocol import acquired_at, stated_protocol
from iap_node.audit.vocabulary import Vocabulary, as_file, learn_vocabulary, parse_vocabulary
from iap_node.config import HabitConfig
from iap_node.dicom.protocol import ELEMENTS
from iap_node.dicom.sop_classes import MR_IMAGE_STORAGE
from iap_node.dicom.statements import Image, InstanceStatements, Stated
from iap_node.records import PastSeries

POSITION = 0x00200032
# Names of protocol and sequence, what the field of view and the number of slices come from, dates.
TAGS = [element.tag for element in ELEMENTS] + [
    0x00181030, 0x0008103E, 0x00180024, 0x00189005, 0x00280010, POSITION, 0x00080020, 0x00080022, 0x00080032,
]  # fmt: skip
PIECES = (
    "", "0", "1", "-1", "1e308", "1e-308", "9" * 60, "nan", "inf", "1,5", "\\", "x", "\u00b2\u00b3", "\u00b20260301",
    "\u0663", "\u00df" * 70, "\x1b[31m", "=1+1", "<b>", "{{7}}", "%s", "SIEMENS", "GE", "ORIGINAL", "DERIVED", "2.46",
    "-0", "+5", "  ", "\u00e9\u4e2d", "\u2028", "0\\448\\358\\0", "1x2", "448x358", "1\\2\\3\\4",
)  # fmt: skip


def text(rng: random.Random) -> str:
    return "\\".join("".join(rng.choices(PIECES, k=rng.randint(1, 2))) for _ in range(rng.randint(1, 3)))[:1024]


def instance(raws: dict[int, str]) -> InstanceStatements:
    stated = {tag: Stated(tag, "LO", raw) for tag, raw in {**raws, 0x00080016: MR_IMAGE_STORAGE}.items()}
    image = Image(stated, places=({POSITION: stated[POSITION]} if POSITION in stated else {},))
    return InstanceStatements("1.2.840.10008.1.2.1", image, (image,))


@pytest.mark.parametrize("seed", range(60))
def test_hostile_headers_end_no_audit_and_say_nothing_that_cannot_be_shown(seed: int) -> None:
    rng = random.Random(seed)
    usual = {tag: text(rng) for tag in rng.sample(TAGS, rng.randint(0, len(TAGS)))}
    series = []
    for number in range(rng.choice((3, 14))):
        instances = []
        for _ in range(rng.randint(1, 3)):
            odd = {tag: text(rng) for tag in rng.sample(TAGS, 3)} if rng.random() < 0.3 else {}
            instances.append(instance({**usual, **odd}))
        stated = stated_protocol(instances, Vocabulary())
        assert len(stated.protocol) < 300 and len(stated.device) < 200
        series.append(PastSeries(f"{number}", f"{number // 2}", stated, acquired_at(instances)))
    habits = compare_series(series, HabitConfig(min_series=3), Vocabulary())
    for finding in (one for of_one in habits.findings for one in of_one):
        assert finding.evidence.isprintable() and len(finding.evidence) < 1500
    for testimony in habits.testimonies:
        if testimony is not None:
            said = [testimony(element.parameter.element) for element in ELEMENTS]
            assert all(one is None or one.statement.isprintable() for one in said)
    devices = spellings(one.protocol for one in series)
    written = as_file(learn_vocabulary(Vocabulary(), devices, [(text(rng), 3)]), devices)
    assert written.isascii()
    parse_vocabulary(yaml.safe_load(written))
