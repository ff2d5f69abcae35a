"""Spellings that mean the same: folded, learned from a site's series, pinned in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from iap_node.audit.vocabulary import (
    Vocabulary,
    as_file,
    learn_vocabulary,
    load_vocabulary,
    parse_vocabulary,
    serial_number,
)
from iap_node.errors import ConfigError

NOTHING = Vocabulary()
TRIO = [("SIEMENS", "TrioTim", "35131", 20), ("SIEMENS", "Trio", "35131", 4), ("SIEMENS", "Trio", "", 2)]


@pytest.mark.parametrize("text", ["Skyra", "SKYRA", "MAGNETOM Skyra", "Siemens MAGNETOM skyra "])
def test_spellings_of_one_model_fold_together(text: str) -> None:
    assert NOTHING.model(text) == "skyra"


def test_models_keep_apart_what_is_apart() -> None:
    assert NOTHING.model("MAGNETOM Prisma Fit") == NOTHING.model("Prisma_fit") != NOTHING.model("Prisma")
    assert NOTHING.model("MAGNETOM") == "magnetom"  # better than nothing
    assert NOTHING.model("") == ""


@pytest.mark.parametrize("text", ["SIEMENS", "Siemens Healthineers", "siemens  healthineers"])
def test_spellings_of_one_manufacturer_fold_together(text: str) -> None:
    assert NOTHING.manufacturer(text) == "siemens"


def test_a_maker_that_nobody_knows_is_folded_only() -> None:
    assert NOTHING.manufacturer("MPTronic  Software") == "mptronic software"


@pytest.mark.parametrize("text", ["", "0", "000000", "XXXX", "Anonymized", "NONE", "--"])
def test_what_de_identification_leaves_is_no_serial_number(text: str) -> None:
    assert serial_number(text) == ""


def test_leading_zeros_of_a_serial_number_say_nothing() -> None:
    assert serial_number("000000LXBAY9BNET") == serial_number("LXBAY9BNET") == "lxbay9bnet"


def test_models_under_one_serial_number_are_one_model_for_all_series() -> None:
    learned = learn_vocabulary(NOTHING, TRIO)
    assert learned.model("Trio") == learned.model("TRIOTIM") == "triotim"
    assert NOTHING.model("Trio") == "trio"


def test_a_slip_is_no_spelling() -> None:
    learned = learn_vocabulary(NOTHING, [("SIEMENS", "TrioTim", "35131", 20), ("SIEMENS", "Verio", "35131", 2)])
    assert learned.model("Verio") == "verio"


def test_a_number_that_several_products_share_teaches_nothing() -> None:
    two_fields = [("SIEMENS", "Skyra", "12345", 20), ("SIEMENS", "Aera", "12345", 20)]
    assert learn_vocabulary(NOTHING, two_fields).model("Aera") == "aera"
    many = [("ACME", f"Model {letter}", "12345", 20) for letter in "ABCDE"]
    assert learn_vocabulary(NOTHING, many).models == {}
    makers = [("SIEMENS", "Model A", "12345", 20), ("Philips", "Model B", "12345", 20)]
    assert learn_vocabulary(NOTHING, makers).models == {}


def test_the_commonest_order_of_scan_options_is_learned() -> None:
    learned = learn_vocabulary(NOTHING, [], [("FS\\PFP", 3), ("PFP\\FS", 9), ("FS", 4)])
    assert learned.options("fs\\pfp") == "PFP\\FS"
    assert learned.options("FS") == "FS"


def test_what_is_pinned_wins_over_what_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text(
        "manufacturers: {SIEMENS: [Siemens AG]}\n"
        "models: {Trio: []}\n"
        "scan_options:\n  FS: [FATSAT]\n  FS\\PFP: [PFP\\FS]\n"
        "protocols: {t1_mprage: [T1_MPRAGE_SAG, mprage old]}\n",
        encoding="utf-8",
    )
    words = learn_vocabulary(load_vocabulary(path), TRIO, [("PFP\\FS", 9), ("FS\\PFP", 3)])
    assert words.model("TrioTim") != words.model("Trio") == "trio"
    assert words.options("FATSAT\\SP") == "FS\\SP"
    assert words.options("PFP\\FS") == "FS\\PFP"
    assert words.protocol("MPRAGE  Old") == words.protocol("t1_mprage") == "t1_mprage"
    assert words.manufacturer("SIEMENS AG") == "siemens"


def test_what_was_learned_is_printed_as_a_file_that_can_be_pinned(tmp_path: Path) -> None:
    options = [("PFP\\FS", 9), ("FS\\PFP", 3)]
    devices = [*TRIO, ("Siemens Healthineers", "MAGNETOM TrioTim", "35131", 3)]
    learned = learn_vocabulary(NOTHING, devices, options)
    path = tmp_path / "vocabulary.yaml"
    path.write_text(as_file(learned, devices, options), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert "TrioTim:\n  - MAGNETOM TrioTim\n  - Trio\n" in text
    assert "SIEMENS:\n  - Siemens Healthineers\n" in text
    pinned = load_vocabulary(path)
    for spelling in ("Trio", "MAGNETOM TrioTim", "TRIOTIM"):
        assert pinned.model(spelling) == learned.model(spelling) == "triotim"
    assert pinned.options("FS\\PFP") == "PFP\\FS"


def test_nothing_learned_is_a_file_too() -> None:
    assert as_file(NOTHING, []) == "{}\n"
    assert parse_vocabulary({}) == parse_vocabulary(None) == NOTHING


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modells: {}", "unknown key 'modells'; did you mean 'models'?"),
        ("- models", "the top level must be a mapping"),
        ("models: [Skyra]", "models: must be a mapping"),
        ("models: {Skyra: SKYRA}", "models.Skyra: must be a list"),
        ("models: {Skyra: [750]}", "models.Skyra: 750 is no text; put it in quotes"),
        ("models: {Skyra: [no]}", "models.Skyra: False is no text; put it in quotes"),
        ("models: {Skyra: [Prisma], Verio: [PRISMA]}", "models.Verio: 'PRISMA' stands under 'Skyra' already"),
        ("models: {Skyra: [", "is not YAML"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_with_the_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_vocabulary(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the vocabulary"):
        load_vocabulary(tmp_path / "absent.yaml")
