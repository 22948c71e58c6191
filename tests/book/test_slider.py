"""The slider of the primer in a real browser: with the keyboard, with its button, and with less motion."""

import time

import pytest
from browser import WIDTHS, open_page

PAGE = "book/method/primer.html"
SHOWN = """return [...document.querySelectorAll('.frames [data-now]')]
    .filter(group => getComputedStyle(group).display !== 'none').map(group => Number(group.dataset.now))"""
PIECES = """return [...document.querySelectorAll('.frames [data-since]')]
    .filter(group => getComputedStyle(group).display !== 'none').length"""
LAST, EVERY = 40, 12  # frames, and updates between two
PATIENCE_S = 10


@pytest.fixture
def still(browser):
    """Say what the reader's system asks for, and take it back."""

    def ask(value):
        features = [{"name": "prefers-reduced-motion", "value": value}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    yield ask
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def part(browser, tag):
    return browser.find_element("css selector", f".frames {tag}")


def shown(browser):
    """The one frame that is shown."""
    (frame,) = set(browser.execute_script(SHOWN))
    return frame


def wait(condition, words):
    """Until the condition holds; the browser tells a page about its reader's wishes at its next picture only."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_moves_the_slider_and_the_frame_with_it(browser, address, still, width):
    keys = pytest.importorskip("selenium.webdriver").Keys
    still("no-preference")
    open_page(browser, f"{address}/{PAGE}", width)
    slider = part(browser, "input")
    assert shown(browser) == LAST
    whole = browser.execute_script(PIECES)
    for key, frame in ((keys.ARROW_LEFT, LAST - 1), (keys.HOME, 0), (keys.ARROW_RIGHT, 1), (keys.END, LAST)):
        slider.send_keys(key)
        assert shown(browser) == frame
        assert browser.execute_script(PIECES) * LAST == whole * frame
        said = part(browser, "output").text
        assert said.startswith(f"update {EVERY * frame}: sharpness ")
        assert slider.get_attribute("aria-valuetext") == said
    assert slider.accessible_name == "Training"
    assert slider.size["width"] > 100


def test_the_button_plays_from_the_start_and_pauses(browser, address, still):
    still("no-preference")
    open_page(browser, f"{address}/{PAGE}", WIDTHS[0])
    button = part(browser, "button")
    button.click()
    assert button.text == "Pause"
    assert shown(browser) < LAST
    wait(lambda: shown(browser) >= 3, "nothing moves")
    button.click()
    assert button.text == "Play"
    paused = shown(browser)
    time.sleep(0.3)
    assert shown(browser) == paused


def test_where_less_motion_is_asked_for_there_is_only_the_slider(browser, address, still):
    still("reduce")
    open_page(browser, f"{address}/{PAGE}", WIDTHS[0])
    assert not part(browser, "button").is_displayed()
    assert part(browser, "input").is_displayed()
    still("no-preference")
    button = part(browser, "button")
    wait(button.is_displayed, "the button does not come back")
    button.click()
    still("reduce")
    wait(lambda: not button.is_displayed(), "the button stays")
    paused = shown(browser)
    time.sleep(0.3)
    assert shown(browser) == paused


def test_without_scripts_the_last_frame_stands_alone(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}/{PAGE}")
        left = browser.find_elements("css selector", ".frames [data-now]:not([style*=none])")
        assert {group.get_attribute("data-now") for group in left} == {str(LAST)}
        assert browser.find_elements("css selector", ".frames [data-now='0']")
        assert not part(browser, ".frames-controls").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
