"""The console in a real browser: Debian's Chromium, driven through a whole story on a node with all its roles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pydicom import dcmread

from iap_node.inference.package import package_folder
from iap_node.listener.address import WEB_FILE_NAME, read_port
from tests.acceptance.conftest import RunningNode, wait_for
from training.simulation.dicom_series import write_series
from training.simulation.series import simulate_series

ADMINS = "an admin's pass phrase"
VIEWERS = "a viewer's pass phrase"
WAIT_MS = 60_000.0
PICTURES = {"/": "overview", "/series/1": "series", "/findings/1": "finding"}


@pytest.fixture(scope="module")
def chromium(program: Callable[[str, str], str]) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = program("chromium", "chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def keep_picture(page: Page, name: str) -> None:
    """Into the folder that `make screenshots` names; its images stand in the README."""
    if folder := os.environ.get("IAP_NODE_SCREENSHOTS"):
        if page.locator("[data-slices]").count():
            expect(page.locator("img.slice")).to_be_visible()
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


class Watched:
    """A browser window; what it complains of and where it asks is kept."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.base, "data:")):
            self.elsewhere.append(url)

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path)
        return self.page

    def sign_in(self, name: str, one_time: str, password: str) -> None:
        """By the keyboard alone, the first time: the one-time password must be changed."""
        page = self.go("/")
        page.keyboard.type(name)  # the field has the focus
        page.keyboard.press("Tab")
        page.keyboard.type(one_time)
        page.keyboard.press("Enter")
        page.wait_for_url("**/password")
        page.get_by_label("Old password").focus()
        for text in (one_time, password, password):
            page.keyboard.type(text)
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(self.base + "/")


def faults(page: Page) -> list[str]:
    """Serious faults of accessibility (axe-core, WCAG 2), with the place."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_a_study_is_seen_corrected_rerouted_held_and_requeued_and_a_viewer_may_only_look(
    make_node: Callable[..., RunningNode], chromium: Browser, program: Callable[[str, str], str], tmp_path: Path
) -> None:
    (tmp_path / "shelf").mkdir()
    node = make_node(
        web={"enabled": True, "port": 0},
        series={"complete_on_release": True},
        jobs={"max_attempts": 1},
        destinations={
            "away": {"ae_title": "AWAY", "host": "127.0.0.1", "port": 1, "timeout_s": 1.0},
            "shelf": {"kind": "folder", "path": str(tmp_path / "shelf")},
        },
        routing={"default": {"destinations": ["away"]}},
    )
    node.start()
    port = wait_for(lambda: read_port(node.config.data_dir, WEB_FILE_NAME), "the console's port")
    one_time = re.search(r"one-time password (\w+)", node.log_path.read_text())
    assert one_time is not None
    base = f"http://127.0.0.1:{port}"
    desk = Watched(chromium.new_context(viewport={"width": 1280, "height": 900}), base)
    desk.sign_in("admin", one_time[1], ADMINS)

    # a study arrives while the list is open, and appears without a reload
    page = desk.go("/series")
    expect(page.locator("tbody")).to_contain_text("no series here")
    rng = np.random.default_rng(7)
    overrides = {"MagneticFieldStrength": "15000", "SeriesDescription": "<b>sent</b>"}
    files = write_series(simulate_series(rng, 3, slice_positions="even"), tmp_path / "s", rng=rng, overrides=overrides)
    storescu = program("storescu", "dcmtk")
    subprocess.run([storescu, "-aec", "IAP_NODE", "127.0.0.1", str(node.port), *map(str, files)], check=True)
    expect(page.locator("tbody tr td:nth-child(2)")).to_have_text("<b>sent</b>")
    expect(page.locator("tbody tr td:nth-child(6)")).to_have_text("judged")

    # its images are there, and the wrong header is found and accepted
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/series/[0-9]+"))
    expect(page.locator("img.slice")).to_be_visible()
    assert page.locator("img.slice").evaluate("image => image.naturalWidth") > 0
    page.get_by_role("link", name="MagneticFieldStrength").first.click()
    expect(page.locator("#finding")).to_contain_text("15000")
    page.get_by_label("Right value").fill("1.5")
    page.get_by_role("button", name="Accept").click()
    expect(page.locator("#finding dl")).to_contain_text("accepted: 1.5")

    # a corrected copy is made, and taken away
    page.get_by_role("link", name="Corrected copy").click()
    page.get_by_role("button", name="Write into the node's folder").click()
    expect(page.locator("#correction")).to_contain_text("3 copies in")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        copies = [dcmread(BytesIO(packed.read(name))) for name in packed.namelist()]
    assert [copy.MagneticFieldStrength for copy in copies] == [1.5] * 3

    # another rule is written, replayed and saved; the series, judged again, goes by it
    page = desk.go("/routes")
    rules = page.get_by_label("The section")
    rules.fill(rules.input_value().replace("away", "shelf"))
    expect(page.locator("#rule-verdict")).to_contain_text("replay them")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#rule-verdict")).to_contain_text("1 of 1 series")
    page.get_by_role("button", name="Save these rules").click()
    expect(page.locator("#rule-editor")).to_contain_text("Saved as rules")
    wait_for(lambda: time.time() - node.config_path.stat().st_mtime > 2.0, "rules at rest")  # others are not taken
    page = desk.go("/series/1")
    page.get_by_label("Reason").fill("other rules")
    page.get_by_role("button", name="Judge again").click()
    expect(page.locator("#detail")).to_contain_text("shelf accepted 3 of 3 instances")

    # it is held, and let go
    page.get_by_label("Reason").fill("whose is it?")
    page.get_by_role("button", name="Hold").click()
    expect(page.locator("#detail")).to_contain_text("held by admin: whose is it?")
    page.get_by_role("button", name="Release").click()
    expect(page.locator("#detail .timeline")).to_contain_text("held no longer")

    # the destination is away: the dead letter is put back
    page = desk.go("/series/1")
    page.get_by_label("away").check()
    page.get_by_role("button", name="Reroute").click()
    page = desk.go("/queue?state=dead")
    expect(page.locator("#queue")).to_contain_text("deliver to away")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Put the ticked dead letters back").click()
    expect(page.locator("#queue")).to_contain_text("1 dead letters are back in the queue")

    # another model is promoted, and taken back
    other = Path(shutil.copytree(package_folder("reference"), tmp_path / "other"))
    (other / "model.json").write_text((other / "model.json").read_text().replace('"version": "', '"version": "9.', 1))
    assert node.command("models", "add", str(other)).returncode == 0
    page = desk.go("/models")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("link", name="reference-9.").first.click()
    page.get_by_label("Why").fill("for a look")
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#model")).to_contain_text("promoted")
    page = desk.go("/models")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator("#models")).to_contain_text("rolled back")
    model = page.locator("#models tbody a").first.get_attribute("href")
    assert model is not None and "reference-9." not in model  # the champion stands first

    # a viewer is made, may look, and is refused
    page = desk.go("/admin")
    page.locator("form[hx-post='/admin/users']").get_by_label("Name").fill("Vera")
    page.get_by_role("button", name="Add").click()
    vera = page.locator("#secret").inner_text()
    visitor = Watched(chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark"), base)
    visitor.sign_in("Vera", vera, VIEWERS)
    page = visitor.go("/findings?state=corrected")
    expect(page.locator("tbody")).to_contain_text("MagneticFieldStrength")
    expect(page.get_by_role("button", name="Reopen")).to_have_count(0)
    assert visitor.page.request.get(f"{base}/admin").status == 403
    assert visitor.go("/series/1").get_by_role("button", name="Hold").count() == 0

    # every page, wide and light, narrow and dark: nothing to complain of
    paths = ["/", "/series", "/series/1", "/findings?state=", "/findings/1", "/scanners", "/routes", "/destinations",
             "/queue", "/models", model, "/upload"]  # fmt: skip
    wrong = []
    for window in (desk, visitor):
        for path in [*paths, "/admin"] if window is desk else paths:
            page = window.go(path)
            if window is desk and path in PICTURES:
                keep_picture(page, PICTURES[path])
            wrong += [f"{path}: {fault}" for fault in faults(page)]
            if not page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"):
                wrong.append(f"{path} is too wide")
        wrong += window.elsewhere + window.complaints
    assert wrong == []
