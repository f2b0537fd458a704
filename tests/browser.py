"""A headless Chromium for tests of pages; those are skipped where there is none."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[test]'")

from selenium.webdriver import ActionChains as ActionChains  # noqa: E402
from selenium.webdriver.common.by import By as By  # noqa: E402
from selenium.webdriver.common.keys import Keys as Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
NEEDS_BROWSER = [
    pytest.mark.cli,  # selenium starts the processes
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed: apt-get install chromium-driver"
    ),
]
"""The marks of a module whose tests open pages."""


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser, which keeps what a page writes to its console and what it fetches."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


def wait(until: Callable[[], Any]) -> None:
    """Wait until something is true, for ten seconds."""
    for _ in range(500):
        if until():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen in ten seconds")
