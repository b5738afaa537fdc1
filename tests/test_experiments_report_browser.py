"""The report in a real browser, from disk: two widths, light and dark, keyboard, print; it asks the network nothing.

Screenshots go to the folder in TVP_SCREENSHOTS, else to a temporary one. Needs Debian's chromium and chromium-driver;
without them the tests are skipped, except where CI or TVP_REQUIRE_BROWSER is set: there they fail.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from support.sweep_files import write_sweep

from experiments.report.__main__ import main

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = write_sweep(
        tmp_path_factory.mktemp("browser") / "sweep",
        data=("emoji_recognition", "emoji_counting"),
        seeds=(0, 1, 2),
        n=32,
        failed=[f"embedded_llava-emoji_counting-vp-s{seed}" for seed in range(3)],
    )
    main([str(out), "examples=2"])
    return out / "report.html"


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    folder = Path(os.environ.get("TVP_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def chromium(no_network):
    """A browser whose console and network are recorded."""
    missing = [str(path) for path in (CHROMIUM, DRIVER) if not path.exists()]
    if missing:
        said = f"No {' and no '.join(missing)}. Install Debian's chromium and chromium-driver: .ci/run does."
        required = os.environ.get("CI") or os.environ.get("TVP_REQUIRE_BROWSER")
        (pytest.fail if required else pytest.skip)(said)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def shown(request, chromium, page):
    """The page opened anew at a width and in a colour scheme: (driver, width, scheme)."""
    width, scheme = request.param
    emulate(chromium, width, scheme)
    chromium.get_log("browser"), chromium.get_log("performance")
    chromium.get(page.as_uri())
    wait_for_page(chromium)
    return chromium, width, scheme


def wait_for_page(driver):
    """On a busy machine `get` was seen to return while the end of the page was still being read."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda d: d.execute_script("return document.readyState") == "complete")


def emulate(driver, width, scheme, media=""):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def css(driver, selector):
    from selenium.webdriver.common.by import By

    return driver.find_elements(By.CSS_SELECTOR, selector)


def choose(driver, key, value):
    from selenium.webdriver.support.ui import Select

    Select(css(driver, f"#{key}")[0]).select_by_value(value)


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def save_screenshot(driver, path, width):
    height = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))


def contrast(driver, selector):
    """The lowest contrast ratio of text and its own background among the elements of a selector (WCAG 2)."""
    return driver.execute_script(CONTRAST, selector)


CONTRAST = """
const rgb = (colour) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (c) => c.map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|^transparent$/.test(colour)) return colour;
  }
};
return Math.min(...[...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => {
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(rgb(ground(e)))].sort((x, y) => y - x);
  return (a + .05) / (b + .05);
}));
"""

MARKS = """
return [...document.querySelectorAll("svg.chart")].filter((svg) => svg.checkVisibility()).map((svg) => {
  const drawn = [...svg.querySelectorAll("use, path")].filter((mark) => {
    const box = mark.getBoundingClientRect();
    const style = getComputedStyle(mark);
    return (box.width > 0 || box.height > 0) && (style.fill !== "none" || style.stroke !== "none");
  });
  const box = svg.getBoundingClientRect();
  return {label: svg.getAttribute("aria-label"), marks: drawn.length, left: box.left, right: box.right,
          height: box.height, words: [...svg.querySelectorAll("text")].every((t) => {
            const own = t.getBoundingClientRect(); return own.left >= -1 && own.right <= innerWidth + 1; })};
});
"""


# ---- what is seen ----------------------------------------------------------------------------------------------------
def test_the_page_asks_for_nothing_and_logs_no_error(shown, shots):
    driver, width, scheme = shown
    save_screenshot(driver, shots / f"report-{width}-{scheme}.png", width)
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file://", "data:")) for url in urls)
    assert [url for url in urls if url.startswith("file://")] == [driver.current_url]


def test_every_chart_is_drawn_inside_the_page(shown):
    driver, width, _ = shown
    for details in css(driver, "details"):
        driver.execute_script("arguments[0].open = true", details)
    charts = driver.execute_script(MARKS)
    assert len(charts) > 20
    for chart in charts:
        assert chart["marks"] >= 3 and chart["height"] > 40 and chart["words"], chart
        assert chart["left"] >= 0 and chart["right"] <= width, chart


def test_every_picture_is_decoded(shown):
    driver, *_ = shown
    sizes = driver.execute_script("return [...document.images].map((i) => [i.naturalWidth, i.alt.length > 0])")
    assert len(sizes) > 20 and all(width > 0 and described for width, described in sizes)


def test_the_page_never_scrolls_sideways(shown):
    driver, width, _ = shown
    for details in css(driver, "details"):
        driver.execute_script("arguments[0].open = true", details)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_colours_follow_the_system_and_the_toggle_and_text_stays_readable(shown):
    driver, _, scheme = shown

    def is_dark():
        return driver.execute_script("return getComputedStyle(document.body).color") == "rgb(233, 234, 236)"

    assert is_dark() == (scheme == "dark")
    toggle = css(driver, "#theme")[0]
    for theme, dark in (("light", False), ("dark", True), ("system", scheme == "dark")):
        toggle.click()
        assert toggle.text == f"Theme: {theme}" and is_dark() == dark
        for selector in (".heat button", "p", "caption", "li", "td", "a", ".right, .wrong"):
            assert contrast(driver, selector) >= 4.5, (theme, selector)


# ---- keys and choices ------------------------------------------------------------------------------------------------
def test_keys_reach_a_cell_and_show_what_a_mouse_would(shown):
    from selenium.webdriver.common.keys import Keys

    driver, width, _ = shown
    press(driver, Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the results"
    css(driver, "#pick-method")[0].send_keys(Keys.NULL)
    for _ in range(6):
        press(driver, Keys.TAB)
        if driver.switch_to.active_element.get_attribute("data-pair"):
            break
    cell, tip = driver.switch_to.active_element, css(driver, "#tip")[0]
    first = cell.get_attribute("data-pair")
    assert tip.is_displayed() and "95 % interval" in tip.text and "n 32 test images, 3 seeds" in tip.text
    assert cell.get_attribute("aria-describedby") == "tip"
    press(driver, Keys.ARROW_RIGHT)
    moved = driver.switch_to.active_element
    assert moved.get_attribute("data-pair") not in (None, first)
    box = driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", tip)
    assert box["left"] >= 0 and box["right"] <= width
    press(driver, Keys.ESCAPE)
    assert not tip.is_displayed()


def test_a_mouse_shows_the_same(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    driver, *_ = shown
    cell = css(driver, ".heat button")[1]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell)
    ActionChains(driver).move_to_element(cell).perform()
    tip = css(driver, "#tip")[0]
    assert tip.is_displayed() and cell.text.split("\n")[0][:4] in tip.text


def test_the_control_changes_the_matrix_and_its_marks(shown):
    driver, *_ = shown
    stored = json.loads(css(driver, "#matrix-data")[0].get_attribute("textContent"))
    for control in stored["limits"]:
        choose(driver, "pick-control", control)
        cells = {int(c.get_attribute("data-pair")): c for c in css(driver, ".heat button")}
        for i, cell in list(cells.items())[::7]:
            gain = stored["pairs"][i]["g"][control]
            assert gain[1].split(" [")[0] in cell.text and ("▼" in cell.text) == bool(gain[5])
    assert "▼" in "".join(cell.text for cell in css(driver, ".heat button"))


def test_data_set_and_method_choose_which_tables_are_shown(shown):
    driver, *_ = shown
    every = [block for block in css(driver, ".matrix") if block.is_displayed()]
    choose(driver, "pick-data", "emoji_counting")
    choose(driver, "pick-method", "tvp")
    (left,) = [block for block in css(driver, ".matrix") if block.is_displayed()]
    assert len(every) == 8 and left.get_attribute("data-data") == "emoji_counting"


@pytest.mark.parametrize("picker", ["pick-curve", "pick-example"])
def test_one_group_is_shown_and_the_choice_changes_it(shown, picker):
    driver, *_ = shown
    groups = css(driver, f".groups[data-picker={picker}] .group")
    assert len(groups) == 6 and [group.is_displayed() for group in groups] == [True] + [False] * 5
    choose(driver, picker, groups[4].get_attribute("data-group"))
    assert [group.is_displayed() for group in groups].index(True) == 4


def test_print_has_no_controls_and_black_ink_on_white(chromium, page, shots):
    emulate(chromium, 1000, "dark", media="print")
    chromium.get(page.as_uri())
    assert not any(e.is_displayed() for e in css(chromium, "nav, .controls, #theme, .skip, #tip"))
    assert chromium.execute_script("return getComputedStyle(document.body).color") == "rgb(27, 29, 32)"
    emulate(chromium, 1000, "dark")
    pdf = base64.b64decode(chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    (shots / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
