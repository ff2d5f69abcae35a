"""Patient hashes and their key."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from iap_node.errors import ConfigError
from iap_node.listener.patients import KEY_BYTES, load_or_create_patient_key, patient_hash
from iap_node.records import InstanceHeader

KEY = b"k" * KEY_BYTES


def header(**changes: Any) -> InstanceHeader:
    known = {
        "sop_class_uid": "1.2",
        "sop_instance_uid": "1.3",
        "study_instance_uid": "1.4",
        "series_instance_uid": "1.5",
        "transfer_syntax_uid": "1.6",
        "patient_id": "4711",
    }
    return InstanceHeader(**(known | changes))


def test_hash_follows_patient_and_issuer_and_not_the_study() -> None:
    assert patient_hash(KEY, header()) == patient_hash(
        KEY, header(study_instance_uid="9", patient_id=" 4711 ")
    )
    assert patient_hash(KEY, header()) != patient_hash(KEY, header(patient_id="4712"))
    assert patient_hash(KEY, header()) != patient_hash(KEY, header(issuer_of_patient_id="CLINIC"))


def test_issuer_and_patient_id_cannot_be_confused() -> None:
    one = patient_hash(KEY, header(issuer_of_patient_id="A", patient_id="BC"))
    assert one != patient_hash(KEY, header(issuer_of_patient_id="AB", patient_id="C"))


def test_studies_without_patient_id_are_patients_of_their_own() -> None:
    first, second = header(patient_id=""), header(patient_id=" ", study_instance_uid="9")
    assert patient_hash(KEY, first) != patient_hash(KEY, second)
    assert patient_hash(KEY, first) == patient_hash(KEY, header(patient_id="", series_instance_uid="9"))
    assert patient_hash(KEY, header(patient_id="1.4")) != patient_hash(KEY, first)


def test_hash_cannot_be_made_without_the_key_and_shows_no_identity() -> None:
    assert patient_hash(KEY, header()) != patient_hash(b"x" * KEY_BYTES, header())
    assert "4711" not in patient_hash(KEY, header())


def test_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "patient.key"
    key = load_or_create_patient_key(path)
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_patient_key(path) == key
    assert [item.name for item in path.parent.iterdir()] == ["patient.key"]


def test_processes_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    barrier = threading.Barrier(8)

    def load() -> None:
        barrier.wait()
        keys.append(load_or_create_patient_key(tmp_path / "patient.key"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "patient.key"
    load_or_create_patient_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_patient_key(path)


def test_short_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "patient.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="restore it from a backup"):
        load_or_create_patient_key(path)
