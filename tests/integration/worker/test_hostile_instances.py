"""What a listener stores although it lies, when a worker comes to judge it: a problem each, and little memory."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import pytest

from iap_node.database import archive, results
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import JobKind, JobState
from tests.integration.listener.broken import BOMB_BYTES, STORED, broken_data_sets

SERIES = "1.2.840.99.1.1"  # of all of them
MAX_BYTES = 64 * 1024**2

# What is said about each: a part of the problem, None where the pixels can be read in spite of all.
SAID = {
    "truncated in its pixels": "cut off",
    "truncated in its Rows": None,  # without Rows it is no image, and not analysed
    "truncated in a tag": None,
    "4 GB of pixels that are not there": None,
    "two SOP Instance UIDs, the second one true": None,
    "an identity as LO": None,
    "an identity as ZZ": None,
    "an identity as UN": None,
    "a value of odd length": None,
    "text of a codec that makes surrogates": None,
    "a character set that does not exist": None,
    "escape sequences for a terminal": None,
    "explicit VR, said to be implicit": None,
    "native pixels, said to be JPEG": "native pixels under the compressed",
    "a bomb of pixels": "inflates to more than",
    "20000 open sequences last": "nested deeper",
    "20000 closed sequences last": "nested deeper",
    "2000 sequences with their lengths, last": None,
    "8 GB of pixels": "4294836225 pixels per slice are more than",
    "a billion frames": "are no image",
    "cells of 65535 bits": "disagree",
    "no pixels at all": "no pixels",
}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_each_instance_that_lies_is_a_problem_and_the_others_are_judged(make_node, scripted) -> None:
    node = make_node(inference={"max_bytes_per_instance": MAX_BYTES})
    intake = Intake(node.spool, node.database, b"k" * 32)
    stored = [broken for broken in broken_data_sets() if broken.status == STORED]
    for broken in stored:
        uids = ("1.2.840.10008.5.1.4.1.1.4", broken.sop_instance_uid, broken.transfer_syntax_uid)
        intake.file(broken.dataset, Request(*uids, "SCANNER", "127.0.0.1"))
    with node.database.transaction() as session:
        assert archive.complete_series(session, [SERIES], datetime.now(UTC)) == [SERIES]
    tracemalloc.start()
    node.infer(scripted())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert node.job(JobKind.INFER).state is JobState.DONE
    with node.database.reading() as session:
        series_id = archive.find_series(session, SERIES).id
        judgement = results.judgement(session, series_id)
        uids = {instance.id: instance.sop_instance_uid for instance in archive.current_instances(session, series_id)}
    problems = {uids[instance_id]: reason for instance_id, reason in judgement.problems}
    for broken in stored:
        said = problems.get(broken.sop_instance_uid)
        expected = SAID[broken.what]
        assert (said is None) is (expected is None), f"{broken.what}: {said}"
        assert (expected or "") in (said or ""), f"{broken.what}: {said}"
    assert peak < 1.2 * BOMB_BYTES  # a deflated header is inflated once, to 512 MiB at most; the 8 GB never are
