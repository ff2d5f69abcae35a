"""Packages below the data directory: whole or not there, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iap_node.errors import ModelPackageError
from iap_node.inference import store
from iap_node.inference.package import HEADER_FILE, MANIFEST_FILE, WEIGHTS_FILE, load_package, package_folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change model.json."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    change(content)
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


@pytest.fixture
def package(write_tiny_package: Callable[..., Path], tmp_path: Path) -> Path:
    return write_tiny_package(tmp_path / "made")


def test_a_package_is_installed_once_under_its_name(package: Path, tmp_path: Path) -> None:
    installed, folder = store.install_package(package, tmp_path / "data")
    assert folder == f"models/{installed.model_id}"
    before = (installed.folder / WEIGHTS_FILE).stat().st_ino
    assert store.install_package(package, tmp_path / "data")[1] == folder
    assert (installed.folder / WEIGHTS_FILE).stat().st_ino == before
    loaded = store.load_installed(tmp_path / "data", folder, installed.model_id)
    assert loaded.model_id == load_package(package).model_id
    assert installed.model_id.endswith(store.manifest_sha256(loaded)[:8])
    assert [one.name for one in (tmp_path / "data" / "models").iterdir()] == [installed.model_id]


def test_a_package_without_header_calibration_is_installed_too(package: Path, tmp_path: Path) -> None:
    edit(package, lambda manifest: manifest.pop("header"))
    (package / HEADER_FILE).unlink()
    installed, _ = store.install_package(package, tmp_path / "data")
    assert installed.header is None


def test_a_damaged_package_is_refused_and_leaves_nothing(package: Path, tmp_path: Path) -> None:
    (package / WEIGHTS_FILE).write_bytes(b"other")
    with pytest.raises(ModelPackageError, match="SHA-256 differs"):
        store.install_package(package, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_what_lies_damaged_in_the_place_is_replaced(package: Path, tmp_path: Path) -> None:
    installed, folder = store.install_package(package, tmp_path / "data")
    (installed.folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelPackageError, match=WEIGHTS_FILE):
        store.load_installed(tmp_path / "data", folder, installed.model_id)
    assert store.install_package(package, tmp_path / "data")[0].model_id == installed.model_id


def test_another_package_in_the_folder_of_a_model_is_not_taken_for_it(package: Path, tmp_path: Path) -> None:
    _, folder = store.install_package(package, tmp_path / "data")
    with pytest.raises(ModelPackageError, match="not another-1"):
        store.load_installed(tmp_path / "data", folder, "another-1")
    with pytest.raises(ModelPackageError, match="models add"):
        store.load_installed(tmp_path / "data", None, "another-1")


@pytest.mark.parametrize("name", ["../../etc", "a b", ".hidden", "x" * 200])
def test_a_name_that_is_no_folder_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    edit(package, lambda manifest: manifest.update(name=name))
    with pytest.raises(ModelPackageError, match="letters, digits"):
        store.install_package(package, tmp_path / "data")


def test_a_kill_during_the_copy_leaves_no_package_and_the_rest_is_removed(package: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    if not (child := os.fork()):
        copyfile = shutil.copyfile

        def die_at_the_second(source: Path, target: Path) -> None:
            if any(target.parent.iterdir()):
                os.kill(os.getpid(), signal.SIGKILL)
            copyfile(source, target)

        shutil.copyfile = die_at_the_second  # type: ignore[assignment]
        store.install_package(package, data)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert store.installed(data) == []
    (left,) = (data / "models").iterdir()
    assert store.remove_leftovers(data) == []  # another process may be at it
    assert store.remove_leftovers(data, left.stat().st_mtime + store.LEFTOVER_S + 1) == [left.name]
    assert not left.exists()
    store.install_package(package, data)


def test_the_shipped_package_carries_the_figures_that_the_documents_show(tmp_path: Path) -> None:
    installed, _ = store.install_package(package_folder("reference"), tmp_path)
    shown = json.loads((Path(__file__).parents[3] / "docs" / "reference-model.json").read_text("utf-8"))
    # after an evaluation of the shipped model: copy docs/reference-model.json to its folder, as evaluation.json
    assert store.evaluation_of(installed) == shown
    (installed.folder / store.EVALUATION_FILE).write_text(json.dumps(shown | {"model_id": "another"}))
    assert store.evaluation_of(installed) is None
