"""A report in a real browser: nothing is complained about, every picture is there, and the table of tasks works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtrl import report
from scripts import pictures
from tests.support.made_runs import HOSTILE

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window; its network is cut."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed (the extra `dev`)")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "proxy-server=127.0.0.1:9"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = pictures.started(options, driver)
    yield opened
    opened.quit()


@pytest.fixture
def page(browser: Any, sweep: Path) -> Any:
    browser.get(report.write([sweep]).resolve().as_uri())
    return browser


def size(browser: Any, width: int, dark: bool) -> None:
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def tasks(page: Any) -> list[str]:
    """The names in the rows that are shown, from top to bottom."""
    rows = page.find_elements("css selector", "#task-table tbody tr")
    return [row.find_element("css selector", "th").text for row in rows if row.is_displayed()]


def click(page: Any, head: str) -> None:
    (button,) = (b for b in page.find_elements("css selector", "#task-table thead button") if b.text.startswith(head))
    page.execute_script("arguments[0].click()", button)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_complained_about_and_nothing_is_wider_than_the_page(page: Any, width: int, dark: bool) -> None:
    size(page, width, dark)
    page.refresh()
    assert [entry for entry in page.get_log("browser") if "video" not in entry["message"]] == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return window.hit") is None, "what stands in a run never runs"
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark


def test_every_picture_is_there(page: Any) -> None:
    size(page, 1280, False)
    pictures = page.find_elements("css selector", ".picture svg, td.line svg")
    assert len(pictures) > 8
    for picture in pictures:
        assert picture.is_displayed() and picture.size["width"] > 50 and picture.size["height"] > 10
    boxes = "return [...document.querySelectorAll('.picture svg')].map(s => [s.getBBox().width, s.getBBox().height])"
    assert min(min(box) for box in page.execute_script(boxes)) > 100
    images = "return [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    assert page.execute_script(images) == 0


def test_the_table_of_tasks_sorts_by_name_and_by_any_method(page: Any) -> None:
    size(page, 1280, False)
    assert tasks(page) == ["reach", "push", HOSTILE]
    click(page, "plain")
    assert tasks(page) == ["reach", "push", HOSTILE], "the best one first"
    click(page, "plain")
    assert tasks(page) == [HOSTILE, "push", "reach"]
    click(page, HOSTILE[:3])
    assert tasks(page) == ["push", "reach", HOSTILE]
    click(page, "task")
    assert tasks(page) == [HOSTILE, "push", "reach"]
    sorted_by = page.find_elements("css selector", "#task-table th[aria-sort=ascending]")
    assert [head.text[:4] for head in sorted_by] == ["task"]


def test_the_table_of_tasks_is_filtered_by_name_and_by_what_is_not_solved(page: Any) -> None:
    size(page, 390, False)
    field = page.find_element("id", "filter")
    field.send_keys("EA")
    assert tasks(page) == ["reach"] and page.find_element("id", "shown").text == "1 of 3"
    field.clear()
    field.send_keys(" ")
    assert len(tasks(page)) == 3 and page.find_element("id", "shown").text == ""
    page.execute_script("arguments[0].click()", page.find_element("id", "unsolved"))
    assert tasks(page) == ["reach", "push", HOSTILE], "the second method does not solve reach"
