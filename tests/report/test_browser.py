"""The page in a real Chromium: what is clicked and typed, what is fetched, how it looks on a phone and at night."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NEEDS_BROWSER, By, Keys, open_browser, wait
from fake_run import make_run

from expctr.report.render import render
from expctr.report.run import read_run

pytestmark = NEEDS_BROWSER

NASTY = "</script><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)> & Film"
PAGE = 25


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    titles = [NASTY if i == 3 else f"Film {i}" for i in range(60)]
    return make_run(tmp_path_factory.mktemp("report") / "run", titles=titles)


@pytest.fixture
def page(driver: Any, folder: Path, tmp_path: Path) -> Any:
    """The report of a run, open at the size of a desktop, with nothing logged yet."""
    file = tmp_path / "report.html"
    file.write_text(render([read_run(folder)]), encoding="utf-8")
    look(driver)
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(file.as_uri())
    return driver


def look(driver: Any, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},  # a click need not wait until the page has moved
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def count(page: Any) -> str:
    return str(page.find_element(By.ID, "count").text)


def column(page: Any, name: str) -> list[str]:
    """The texts of a column, as they are shown."""
    cells = f"return [...document.querySelectorAll('.browse td[data-label=\"{name}\"]')].map((cell) => cell.innerText)"
    return [text.split("\n")[0] for text in page.execute_script(cells)]


def choose(page: Any, name: str, option: str) -> None:
    page.find_element(By.XPATH, f"//select[@id='{name}']/option[normalize-space()='{option}']").click()


def test_nothing_is_fetched_and_nothing_goes_wrong(page: Any) -> None:
    choose(page, "stage", "all")
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked == [page.current_url]
    assert page.get_log("browser") == []


def test_html_in_a_title_stays_text(page: Any) -> None:
    page.find_element(By.ID, "search").send_keys("onerror")
    wait(lambda: count(page).startswith("1 to 1 of 1,"))
    assert column(page, "Item") == [NASTY]
    assert f"will love {NASTY}." in page.find_element(By.CSS_SELECTOR, "[data-label='After training']").text
    assert page.execute_script("return document.querySelectorAll('main img, main script:not(#rows)').length") == 0
    assert page.get_log("browser") == []  # an alert would also fail every step before


def test_search_finds_all_words_and_says_so_where_there_are_none(page: Any) -> None:
    search = page.find_element(By.ID, "search")
    search.send_keys("FILM 17")
    wait(lambda: count(page).startswith("1 to 1 of 1,"))
    assert column(page, "Item") == ["Film 17"]
    search.send_keys(" nothing")
    wait(lambda: count(page).startswith("No explanation matches"))
    page.find_element(By.ID, "clear").click()
    assert count(page) == "1 to 25 of 120"
    assert page.switch_to.active_element == search


def test_filters_by_label_verdict_stage_and_invention_combine(page: Any) -> None:
    assert count(page) == "1 to 25 of 60, of 120 in all"
    choose(page, "label", "liked")
    assert set(column(page, "Label")) == {"liked"}
    choose(page, "verdict", "wrong")
    assert set(column(page, "Verdict")) == {"✗ wrong"}
    assert all(float(score) <= 0.5 for score in column(page, "s_u"))
    page.find_element(By.ID, "clear").click()
    choose(page, "stage", "LC, pass 1")
    assert set(column(page, "Stage")) == {"LC, pass 1"}
    page.find_element(By.ID, "clear").click()
    choose(page, "invented", "yes")
    assert count(page).startswith("1 to 12 of 12")
    marks = page.find_elements(By.CSS_SELECTOR, ".browse mark")
    assert [mark.text for mark in marks] == ["Alien"] * 12


def test_columns_are_sorted_by_keyboard(page: Any) -> None:
    header = page.find_element(By.CSS_SELECTOR, "th[data-key='s_u']")
    assert header.get_attribute("aria-sort") == "none"
    button = header.find_element(By.TAG_NAME, "button")
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert header.get_attribute("aria-sort") == "ascending"
    rising = [float(score) for score in column(page, "s_u")]
    assert rising == sorted(rising)
    button.send_keys(Keys.SPACE)
    assert header.get_attribute("aria-sort") == "descending"
    assert float(column(page, "s_u")[0]) == max(float(score) for score in column(page, "s_u")) > rising[-1]
    assert page.execute_script("return document.querySelectorAll('th[aria-sort]:not([aria-sort=none])').length") == 1


def test_pages_are_turned(page: Any) -> None:
    first = column(page, "Item")
    assert not page.find_element(By.ID, "previous").is_enabled()
    page.find_element(By.ID, "next").send_keys(Keys.ENTER)
    assert count(page).startswith("26 to 50")
    assert column(page, "Item") != first
    page.find_element(By.ID, "next").send_keys(Keys.ENTER)
    assert len(column(page, "Item")) == 10
    assert not page.find_element(By.ID, "next").is_enabled()


def test_the_first_tab_skips_to_the_answers_and_focus_is_seen(page: Any) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = page.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    assert skip.rect["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "main"
    page.switch_to.active_element.send_keys(Keys.TAB)
    style = page.execute_script(
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
    )
    assert style == ["solid", "2px"]


@pytest.fixture(scope="module")
def three(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on three runs, which have the most columns, one of them with another CTR model than the others."""
    other = shutil.copytree(folder, tmp_path_factory.mktemp("report") / "run") / "table.json"
    other.write_text(other.read_text().replace("DeepFM", "A model of a rather long name"))
    folders = {"ExpCTR-1": folder, "a name that is rather long": folder, "c": other.parent}
    file = other.parent / "report.html"
    file.write_text(render([read_run(path, name) for name, path in folders.items()]), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("width", [360, 390, 800, 1400])
def test_nothing_is_cut_and_nobody_scrolls_sideways(driver: Any, three: str, width: int) -> None:
    look(driver, width, 740)
    driver.get(three)
    driver.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    wide = """return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right
        > innerWidth + 1 && !e.closest('.scroll, pre, nav, svg')).map((e) => e.outerHTML.slice(0, 80))"""
    assert driver.execute_script(wide) == []
    cut = """return [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)
        .map((e) => e.getAttribute('aria-label') || e.innerHTML.slice(0, 80))"""
    assert driver.execute_script(cut) == []
    outside = """return [...document.querySelectorAll('svg text')].filter((e) => e.getBoundingClientRect().right
        > e.closest('svg').getBoundingClientRect().right + 2).map((e) => e.textContent)"""
    assert driver.execute_script(outside) == []
    assert column(driver, "Item")[0] == "Film 0"


CROSSED = """
const crossed = [];
for (const svg of document.querySelectorAll('svg')) {
  const labels = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
  for (const path of svg.querySelectorAll('.grid, .zero, .paper, .part')) {
    const matrix = path.getScreenCTM();
    for (const [, x, y, kind, end] of path.getAttribute('d').matchAll(/M([-\\d.]+) ([-\\d.]+)([HV])([-\\d.]+)/g)) {
      const from = new DOMPoint(x, y).matrixTransform(matrix);
      const to = (kind === 'H' ? new DOMPoint(end, y) : new DOMPoint(x, end)).matrixTransform(matrix);
      const [left, right] = [from.x, to.x].sort((a, b) => a - b), [top, bottom] = [from.y, to.y].sort((a, b) => a - b);
      for (const [name, box] of labels) {
        const [wide, high] = [Math.min(right, box.right) - Math.max(left, box.left),
          Math.min(bottom, box.bottom) - Math.max(top, box.top)];
        if (wide >= 0 && high >= 0 && wide + high > 3) crossed.push([svg.getAttribute('aria-label'), name]);
      }
    }
  }
}
return crossed;
"""


@pytest.mark.parametrize("width", [390, 1400])
def test_no_line_of_a_figure_crosses_a_label(driver: Any, three: str, page: Any, width: int) -> None:
    for address in (page.current_url, three):
        look(driver, width)
        driver.get(address)
        assert driver.execute_script("return document.querySelectorAll('svg .grid').length") > 50
        assert driver.execute_script(CROSSED) == []


def test_the_first_screen_has_with_sentences_against_without(page: Any) -> None:
    first = page.find_element(By.CLASS_NAME, "answer")
    assert "With sentences against without" in first.text
    assert "AUC is better with sentences: 0.6100 without sentences, 0.6700 with sentences" in first.text
    assert "ExpCTR-Aug against DeepFM + title" in first.text
    assert first.rect["y"] + first.rect["height"] <= 900


def test_every_term_is_explained_on_hover_and_in_print(driver: Any, three: str) -> None:
    look(driver)
    driver.get(three)
    links = """return [...document.querySelectorAll('a.term')].map((a) =>
        [a.textContent, a.title, document.querySelector(a.getAttribute('href') + ' dd').textContent])"""
    found = {name: (hover, listed) for name, hover, listed in driver.execute_script(links)}
    assert all(hover == listed != "" for hover, listed in found.values())
    headings = "return [...document.querySelectorAll('.cards:not(.plain) thead th, .cards:not(.plain) tbody th')]"
    shown = driver.execute_script(f"{headings}.filter((e) => !e.querySelector('a.term')).map((e) => e.textContent)")
    assert set(shown) == {"System"}
    assert {"A model of a rather long name + title", "DeepFM", "ECE", "s_u", "warm", "KL", "LC reward"} <= found.keys()
    columns = "return [...document.querySelectorAll('.browse thead th')].map((e) => e.title)"
    assert all(driver.execute_script(columns))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        printed = driver.find_element(By.ID, "terms").text
        assert all(listed in printed for _, listed in found.values())
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CONTRAST = """
const channel = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (e) => {
  const colour = parse(getComputedStyle(e).backgroundColor);
  return colour.length === 4 && colour[3] === 0 ? ground(e.parentElement) : colour;
};
const bad = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || e.closest('script, style, noscript, button:disabled, option') || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const ink = parse(e.closest('svg') ? style.fill : style.color);
  const [a, b] = [light(ink), light(ground(e.closest('svg') ? e.closest('svg') : e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(e.outerHTML.slice(0, 90));
}
return [getComputedStyle(document.body).backgroundColor, bad];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(page: Any, scheme: str) -> None:
    """WCAG AA: 4.5 to 1, of all text as it is shown."""
    look(page, scheme=scheme)
    ground, bad = page.execute_script(CONTRAST)
    assert bad == []
    page.find_element(By.ID, "theme").click()
    other, bad = page.execute_script(CONTRAST)
    assert bad == []
    assert other != ground
    assert page.find_element(By.ID, "theme").text == scheme.capitalize()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_and_wide_enough_and_has_the_config_and_no_controls(page: Any, scheme: str) -> None:
    """On A4 with narrow margins, whatever the screen and the reader's choice are."""
    look(page, width=718, scheme=scheme)
    page.find_element(By.ID, "theme").click()
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 718
        assert page.execute_script(CONTRAST) == ["rgb(255, 255, 255)", []]
        assert "seed_everything: 3" in page.find_element(By.TAG_NAME, "pre").text
        assert "They liked Alien" in page.find_element(By.CSS_SELECTOR, ".browse").text
        assert not page.find_element(By.ID, "search").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_twenty_thousand_explanations_are_a_page_of_rows(driver: Any, tmp_path: Path) -> None:
    """How long it takes is printed: a time decides no test."""
    run = make_run(tmp_path / "run", rows=20_000)
    file = tmp_path / "report.html"
    started = time.perf_counter()
    file.write_text(render([read_run(run)]), encoding="utf-8")
    made = time.perf_counter() - started
    look(driver)
    driver.get(file.as_uri())
    timing = "const t = performance.getEntriesByType('navigation')[0]; return [t.domInteractive, t.loadEventEnd]"
    wait(lambda: driver.execute_script(timing)[1] > 0)
    interactive, loaded = driver.execute_script(timing)
    assert driver.execute_script("return document.querySelectorAll('.browse tbody tr').length") == PAGE
    assert driver.execute_script("return document.querySelectorAll('*').length") < 3000
    assert count(driver) == "1 to 25 of 20,000"
    started = time.perf_counter()
    driver.find_element(By.ID, "search").send_keys("Film 19999")
    wait(lambda: count(driver).startswith("1 to 1 of 1,"))
    found = time.perf_counter() - started
    size = file.stat().st_size / 1e6
    print(
        f"20,000 explanations, {size:.1f} MB: made in {made:.2f} s, interactive after {interactive:.0f} ms, "
        f"loaded after {loaded:.0f} ms, searched in {found:.2f} s"
    )
