"""The page in a real browser: no error, no sideways scrolling; order, choice, theme and sound work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audiolm_compress.report import Report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium chromium-driver)"
)
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
FITS = "return document.documentElement.scrollWidth <= innerWidth"
SHOWN = "return [...document.querySelectorAll('article')].filter(c => !c.hidden).map(c => c.dataset.id)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, heard: Callable[..., Report], hostile: tuple[str, ...], tmp_path: Path) -> Any:
    """The page of nine clips opened from disk, and then: no complaint in the console."""
    file = tmp_path / "report.html"
    file.write_text(heard(9, texts=("the dog barks", *hostile)).to_html(), encoding="utf-8")
    browser.get(file.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'))",
        name,
        value,
    )


def test_clips_are_sorted_and_chosen(page: Any) -> None:
    def order(value: str, key: str) -> list[float]:
        choose(page, "order", value)
        return page.execute_script(
            f"return [...document.querySelectorAll('article')].map(c => Number(c.dataset.{key}))"
        )

    ids = [f"clip{i}" for i in range(9)]
    assert order("worse", "worse") == sorted(order("worse", "worse"), reverse=True)
    assert order("better", "worse") == sorted(order("worse", "worse"))
    assert order("longest", "seconds") == sorted(order("shortest", "seconds"), reverse=True)
    choose(page, "order", "id")
    assert page.execute_script(SHOWN) == ids
    choose(page, "task", "asr")
    assert page.execute_script(SHOWN) == ids[::2]
    choose(page, "search", "CLIP4")
    assert page.execute_script(SHOWN) == ["clip4"]
    assert page.find_element("id", "count").text == "1 of 9 clips"
    choose(page, "search", "")
    choose(page, "task", "")
    choose(page, "which", "worse")
    worse = page.execute_script(SHOWN)
    choose(page, "which", "better")
    assert worse and not set(worse) & set(page.execute_script(SHOWN))


def test_a_clip_is_heard_and_one_at_a_time(page: Any) -> None:
    page.set_script_timeout(30)
    lasts, moved = page.execute_async_script("""
        const done = arguments[0], sounds = document.querySelectorAll('audio');
        sounds[0].addEventListener('timeupdate', () => {
            if (sounds[0].currentTime > 0) done([sounds[0].duration, sounds[0].currentTime]);
        });
        sounds[0].muted = true;
        sounds[0].play().catch((error) => done([String(error), 0]));
    """)
    assert lasts == pytest.approx(1.5, abs=0.2) and moved > 0
    paused = page.execute_async_script("""
        const done = arguments[0], [first, second] = document.querySelectorAll('audio');
        first.loop = true;
        second.muted = true;
        first.play().then(() => second.play()).then(() => setTimeout(() => done(first.paused), 0));
    """)
    assert paused is True


def test_the_theme_is_the_systems_until_the_button_is_pressed(page: Any) -> None:
    def ground() -> str:
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    def prefer(theme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("dark")
    dark = ground()
    prefer("light")
    light = ground()
    assert dark != light
    button = page.find_element("id", "theme")
    button.click()
    assert ground() == dark
    page.refresh()
    assert ground() == dark, "kept where the browser keeps it"
    page.find_element("id", "theme").click()
    assert ground() == light


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(page: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 768}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script(FITS)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.execute_script(FITS)


def test_harmful_texts_do_nothing(page: Any) -> None:
    assert "owned" not in page.title
    assert page.find_elements("css selector", "img") == []


def test_the_page_is_whole_without_scripts(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.refresh()
    visible = [e.is_displayed() for e in page.find_elements("css selector", "article")]
    assert visible == [True] * 9
    assert not page.find_element("id", "theme").is_displayed()
    assert not page.find_element("id", "controls").is_displayed()
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
