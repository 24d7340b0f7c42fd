"""The page in a real browser without a window."""

import contextlib
import dataclasses
import pathlib
import shutil
import threading
import time

import pytest

from conftest import again  # tests/serve/conftest.py
from oxyrec_jax.serve.front import Front, Limits
from oxyrec_jax.serve.process import Listening, listen, run

sync_api = pytest.importorskip("playwright.sync_api")
TITLE = "<img src=x onerror=alert(1)>"  # a title that tries to be markup


@pytest.fixture(scope="module")
def url(opened):
    """The application in a thread of this process, with a hostile title."""
    listening, snapshot = Listening(port=0, grace=0), opened.engine.live.snapshot
    hostile = dataclasses.replace(snapshot, titles=[TITLE] * len(snapshot.titles))
    with listen(listening) as sock, again(opened, hostile) as engine:
        front = Front(engine, opened.people, history=8, title="A shop",
                      reload=lambda before: before, limits=Limits(deadline=60))
        thread = threading.Thread(target=run, args=(front, listening, sock))
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        front.begin_drain()
        thread.join(60)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    with sync_api.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, url):
    """A fresh page, which must say nothing on the console and ask nobody else."""
    made, said = browser.new_page(), []
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    made.on("request", lambda request: request.url.startswith(url) or said.append(
        request.url))
    for _ in range(100):
        with contextlib.suppress(sync_api.Error):
            made.goto(url)
            break
        time.sleep(0.1)
    said.clear()
    yield made
    assert not [line for line in said if "status of 4" not in line]
    made.close()


def test_a_user_is_tried(page, tmp_path):
    page.fill("#user", "user-00000007")
    page.fill("#k", "5")
    page.click("#ask")
    page.wait_for_selector("#items li")
    assert page.locator("#items li").count() == 5
    assert page.locator("h3", has_text="History").count() == 1
    assert page.locator("h3", has_text="Instruction").count() == 1
    assert "5 items in" in page.inner_text("#status")
    # Two levels of codes; the search ended with 20 semantic IDs.
    assert "level 2: 20 of" in page.inner_text("#result")
    assert page.locator("#tree > li").count() >= 2
    assert "beam" in page.locator("#tree > li").first.inner_text()
    # The likeliest that were cut are shown, struck out, with their probability.
    assert page.locator("#tree li.cut").count() == 8
    cut = page.locator("#tree li.cut").first
    assert "%, cut" in cut.inner_text()
    assert "line-through" in cut.locator("b").evaluate(
        "element => getComputedStyle(element).textDecoration")
    shot = pathlib.Path(tmp_path / "page.png")
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 10_000


def test_a_history_filters_and_similar_items(page):
    page.fill("#history", "item-0000003, item-0000009")
    page.fill("#k", "4")
    page.check("#exclude")
    page.click("#ask")
    page.wait_for_selector("#items li")
    shown = page.inner_text("#items")
    assert "item-0000003" not in shown and "item-0000009" not in shown
    assert TITLE in page.inner_text("#result")  # as text
    assert page.locator("#result img").count() == 0
    page.locator("#items button").first.click()
    page.wait_for_selector("h3:has-text('Similar to')")
    assert page.locator("#items li").count() == 4
    assert "cosine" in page.inner_text("#items")


def test_what_is_wrong_is_told(page):
    page.fill("#user", "nobody")
    page.click("#ask")
    page.wait_for_function("document.getElementById('status').textContent"
                           ".includes('no user')")
    assert page.locator("#items").count() == 0


def test_the_page_fits_a_phone(browser, url):
    made = browser.new_page(viewport={"width": 360, "height": 740})
    made.goto(url)
    made.fill("#user", "user-00000007")
    made.click("#ask")
    made.wait_for_selector("#items li")
    assert made.evaluate("document.documentElement.scrollWidth") <= 360
    made.goto(f"{url}/docs")
    assert made.evaluate("document.documentElement.scrollWidth") <= 360
    made.close()
