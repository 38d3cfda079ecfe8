"""The arena's pages in a browser, opened from disk: laid out at any width, light and dark, sorted and filtered, whole without a script."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from flows.arena.pages import claims_page, study_page
from tests.flows.arena import pages_examples as examples
from tests.flows.browser import Browser, browser, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}")

STUDIES = {
    "study": examples.study(), "alone": examples.alone(), "one-pair": examples.one_pair(), "crowd": examples.crowd(),
}  # fmt: skip
CLAIMS = {"claims": examples.claims(40), "no-claims": [], "extreme-claims": examples.extreme_claims()}
PAGES = [*STUDIES, *CLAIMS]
WIDTHS = (390, 768, 1200, 1600)
# What stands further right than the window, but for what lies in a box that scrolls, or is drawn and cut
OUTSIDE = """
return [...document.body.querySelectorAll("*")].filter((e) => !e.closest("svg, .wide *, pre") && e.getClientRects().length
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map((e) => `${e.tagName} ${e.textContent.slice(0, 60)}`)
"""
OVERLAPS = """
const boxes = [...document.querySelectorAll(".forest .row")].filter((e) => e.getClientRects().length)
  .map((row) => [...row.querySelectorAll(".who, .lane, .what")].map((e) => e.getBoundingClientRect()));
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5;
return boxes.filter((row) => row.some((a, i) => row.slice(i + 1).some((b) => meet(a, b)))).length
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of all examples."""
    made = tmp_path_factory.mktemp("pages")
    for name, result in STUDIES.items():
        (made / f"{name}.html").write_text(study_page.page(json.dumps(result)), encoding="utf-8")
    for name, rows in CLAIMS.items():
        html = claims_page.page(examples.as_lines(rows), {"study_0": "study.html"})
        (made / f"{name}.html").write_text(html, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def window(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pictures = Path(os.environ.get("TOKENMILL_SCREENSHOTS", folder / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    with browser(tmp_path_factory.mktemp("browser") / "profile", pictures) as opened:
        yield opened


def show(window: Browser, folder: Path, name: str, width: int = 1600, dark: bool = False) -> None:
    """Open a page in a window of this width; below 500 a window of its own would be wider."""
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    address = (folder / f"{name}.html").as_uri()
    window.open(address)
    ready = "return document.readyState === 'complete' && location.href === arguments[0]"
    window.until(lambda: window.driver.execute_script(ready, address), f"{name} to load")


def keep(window: Browser, name: str) -> None:
    """The whole page as a picture, however long, where pictures are asked for."""
    if "TOKENMILL_SCREENSHOTS" in os.environ:
        height = window.driver.execute_script("return document.documentElement.scrollHeight")
        width = window.driver.execute_script("return window.innerWidth")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        window.picture(name)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_leaves_the_window_or_covers_another(window: Browser, folder: Path, name: str, width: int) -> None:
    for dark in (False, True):
        show(window, folder, name, width, dark)
        run = window.driver.execute_script
        run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        assert run("return document.documentElement.scrollWidth") <= width
        assert run(OUTSIDE) == [] and run(OVERLAPS) == 0
        run("document.querySelectorAll('details').forEach((e) => { e.open = false; })")
        background = run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 150) == dark
        keep(window, f"{name}-{width}-{'dark' if dark else 'light'}")
    assert window.reached() == set()


def methods(window: Browser) -> list[str]:
    rows = window.driver.find_elements(By.CSS_SELECTOR, "#claims tbody tr")
    return [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]


def ratios(window: Browser) -> list[float]:
    cells = window.driver.find_elements(By.CSS_SELECTOR, "#claims td[data-label=ours] b")
    return [float(cell.text) for cell in cells if cell.is_displayed() and cell.text != "-"]


def test_a_click_on_a_head_sorts_and_another_turns_it_round(window: Browser, folder: Path) -> None:
    show(window, folder, "claims")
    assert ratios(window) != sorted(ratios(window))
    window.click("#claims thead button", "ours")
    assert ratios(window) == sorted(ratios(window)) and len(ratios(window)) == 30
    assert window.find("#claims th[aria-sort=ascending]").text.startswith("ours")
    shown = window.driver.find_elements(By.CSS_SELECTOR, "#claims td[data-label=ours] b")
    assert [cell.text for cell in shown[30:]] == ["-"] * 10  # what has no ratio is last, either way
    window.click("#claims thead button", "ours")
    assert ratios(window) == sorted(ratios(window), reverse=True)
    assert [cell.text for cell in window.driver.find_elements(By.CSS_SELECTOR, "#claims td[data-label=ours] b")][
        30:
    ] == ["-"] * 10
    window.click("#claims thead button", "method")
    assert methods(window) == [f"method_{i:02d}" for i in range(40)]


def choose(window: Browser, name: str, value: str) -> None:
    window.driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))", name, value
    )  # fmt: skip


def test_rooms_and_verdicts_are_filtered_in_table_and_plot(window: Browser, folder: Path) -> None:
    show(window, folder, "claims")
    rows = [row for row in examples.claims(40) if row["room"] == "dedup.method" and row["verdict"] == "shown"]
    choose(window, "room", "dedup.method")
    choose(window, "verdict", "shown")
    assert sorted(methods(window)) == sorted(row["method"] for row in rows) and rows
    assert window.find("#seen").text == f"{len(rows)} of 40"
    plotted = [e for e in window.driver.find_elements(By.CSS_SELECTOR, ".forest .row[data-room]") if e.is_displayed()]
    assert len(plotted) == len(rows)
    assert [e.text for e in window.driver.find_elements(By.CSS_SELECTOR, ".forest h3") if e.is_displayed()] == [
        "dedup.method"
    ]
    choose(window, "room", "")
    choose(window, "verdict", "")
    assert len(methods(window)) == 40


def test_a_narrow_window_sorts_by_a_list(window: Browser, folder: Path) -> None:
    show(window, folder, "claims", 390)
    listed = methods(window)
    choose(window, "order", "3")
    assert ratios(window) == sorted(ratios(window))
    choose(window, "order", "")
    assert methods(window) == listed


@pytest.mark.parametrize("name", ["study", "claims"])
def test_without_scripts_all_is_there_but_the_controls(window: Browser, folder: Path, name: str) -> None:
    window.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(window, folder, name)
        assert not [e for e in window.driver.find_elements(By.ID, "controls") if e.is_displayed()]
        if name == "claims":
            assert len(methods(window)) == 40
        else:
            assert "muon: best lr 0.03 lies at the edge of its range" in window.text()
        assert [e for e in window.driver.find_elements(By.CSS_SELECTOR, ".lane circle") if e.is_displayed()]
    finally:
        window.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_link_leads_to_the_page_of_the_study(window: Browser, folder: Path) -> None:
    show(window, folder, "claims")
    window.click("#claims a", "study_0")
    window.see("Study optimizers of pretrain.optimizer")
