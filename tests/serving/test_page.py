"""The page in a real Chromium, with answers made by hand: asking by keyboard, hostile texts, a phone, the dark."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browser import NEEDS_BROWSER, ActionChains, By, Keys, open_browser, wait
from fastapi import FastAPI

from expctr.serving.schemas import Reply
from expctr.serving.server import add_routes

pytestmark = NEEDS_BROWSER

NASTY = "</script><img src=x onerror=document.title='hacked'>" + "wide" * 60
ENTRIES = [{"title": NASTY, "liked": True, "change": -0.125}, {"title": "Heat", "liked": False, "change": 0.25}]


class ByHand:
    """Answers in place of the model's process, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

    async def handle_request(self, request: Mapping[str, Any], _: type) -> Reply:
        self.asked.append(request)
        if request["kind"] in ("items", "users"):
            return Reply(body={"names": ["Heat", NASTY]})
        if request["user"] == "nobody":
            return Reply(status=422, body=f"no user {NASTY}")
        scores = {"s_u": 0.75, "s_r": 0.625, "s_0": 0.5, "s_plain": 0.25}
        samples = {"count": 8, "positive": 5, "negative": 3, "no_verdict": 0, "s_u_std": 0.125, "s_r_std": None}
        shown = {"explanation": NASTY, "samples": samples, "ctr_model": "DeepFM", "moved": "s_r", "notes": [NASTY]}
        return Reply(body={**scores, **shown, "history": ENTRIES})


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, ByHand]]:
    app, queue = FastAPI(), ByHand()
    add_routes(app, queue)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait(lambda: running.started)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/", queue
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(driver: Any, server: tuple[str, ByHand]) -> Any:
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get(server[0])
    driver.get_log("browser")
    return driver


def answer(page: Any) -> str:
    return str(page.find_element(By.ID, "answer").text)


def test_a_choice_is_asked_and_read_with_the_keyboard_alone(page: Any, server: tuple[str, ByHand]) -> None:
    keys = ActionChains(page)
    keys.send_keys(Keys.TAB, Keys.TAB, "42", Keys.TAB, "Heat", Keys.ENTER).perform()
    wait(lambda: "DeepFM with the sentence" in answer(page))
    (asked,) = [request for request in server[1].asked if request["kind"] == "explain"]
    assert {name: asked[name] for name in ("user", "target", "liked")} == {"user": "42", "target": "Heat", "liked": []}
    text = answer(page)
    for shown in ("0.63", "0.75 ± 0.13", "0.25", "5 say yes and 3 say no", "-0.125", "+0.250", "disliked"):
        assert shown in text
    assert NASTY in text
    assert page.title == "expctr"
    assert not page.find_elements(By.TAG_NAME, "img")
    assert not page.get_log("browser")


def test_titles_are_typed_one_per_line(page: Any, server: tuple[str, ByHand]) -> None:
    page.find_element(By.CSS_SELECTOR, "[value=typed]").click()
    page.find_element(By.ID, "liked").send_keys("Heat\n  Fargo \n\n")
    page.find_element(By.ID, "target").send_keys("Seven")
    page.find_element(By.ID, "ask").click()
    wait(lambda: answer(page))
    asked = next(request for request in reversed(server[1].asked) if request["kind"] == "explain")
    assert (asked["user"], asked["liked"], asked["disliked"]) == (None, ["Heat", "Fargo"], [])


def test_an_error_is_read_as_text(page: Any) -> None:
    page.find_element(By.ID, "user").send_keys("nobody")
    page.find_element(By.ID, "target").send_keys("Heat", Keys.ENTER)
    wait(lambda: answer(page) == f"no user {NASTY}")
    assert page.title == "expctr"


def test_suggestions_come_while_typing(page: Any) -> None:
    page.find_element(By.ID, "target").send_keys("He")
    wait(lambda: page.find_elements(By.CSS_SELECTOR, "#items option"))
    options = page.find_elements(By.CSS_SELECTOR, "#items option")
    assert [option.get_attribute("value") for option in options] == ["Heat", NASTY]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_dark(page: Any, width: int, scheme: str, tmp_path: Path) -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.find_element(By.ID, "user").send_keys("42")
    page.find_element(By.ID, "target").send_keys("Heat", Keys.ENTER)
    wait(lambda: answer(page))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    colours = page.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in colours]
    assert (light[0] < 250 and light[1] > 700) if scheme == "light" else (light[0] > 600 and light[1] < 120)
    page.save_screenshot(str(tmp_path / f"{scheme}-{width}.png"))
