"""The console in a browser: Chromium, headless, where it is installed."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace.schemas.events import JobState
from headrace.schemas.keys import Tag

from ....support.gateways import files_of
from ....support.processes import Restartable, kill_engine_of
from ....support.waiting import WAIT_S, wait_until
from ..test_process import answers

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
WAIT_MS = 1000 * WAIT_S
TAG = Tag("demo")

pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("gateway"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    """A browser for all tests here; closed before others run, since it leaves no room for asyncio's loops."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What the browser logs as an error; nothing may be in it."""
    errors: list[str] = []
    yield errors
    assert errors == []


@contextmanager
def opened(
    browser: "playwright.Browser", url: str, errors: list[str], but: str = "^$"
) -> Iterator["playwright.Page"]:
    """The console of a gateway, live; what the browser logs as an error is noted, `but` what is expected."""

    def logged(said: "playwright.ConsoleMessage") -> None:
        if said.type == "error" and not re.search(but, said.text):
            errors.append(said.text)

    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", logged)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/console")
        page.wait_for_selector("#link[data-state=live]")
        page.wait_for_selector("#workers li[data-state=live]")
        yield page


@pytest.fixture
def page(browser, shared_gateway, worker, errors) -> Iterator["playwright.Page"]:
    """The console of a gateway with one worker."""
    with opened(browser, shared_gateway.url, errors) as page:
        yield page


def violations(page: "playwright.Page") -> list[str]:
    """What axe-core finds wrong, each rule with the elements."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]


def test_it_shows_what_runs_and_is_accessible_in_both_schemes_and_on_a_phone(page, jobs):
    made = [
        jobs.enqueue("Once upon a time", model="demo", max_tokens=900, ignore_eos=True, job_class="batch")
        for _ in range(3)
    ]
    page.wait_for_selector("#streams tbody tr[data-class=batch]")
    page.wait_for_selector("#lanes tbody tr[data-class=batch]")
    wait_until(lambda: tokens_per_second(page) > 0)
    page.wait_for_selector("#workers .used[d^=M]", state="attached")
    page.wait_for_selector("#itl .series.p50[d^=M]", state="attached")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == [], scheme
    page.set_viewport_size({"width": 390, "height": 844})
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than the screen"
    for job in made:
        job.cancel()
    page.wait_for_selector("#streams .empty:visible")


def test_a_dead_letter_is_dropped_with_the_keyboard(page, jobs, stack_redis):
    from headrace.schemas.redis.connection import connect

    with connect(stack_redis.url) as redis:
        redis.xadd(TAG.dead, {"cause": "malformed entry", "at_ms": 1, "from": TAG.lane("batch", "t")})
    drop = page.locator("#dead button", has_text="Drop")
    drop.focus()
    page.keyboard.press("Enter")
    assert page.locator("#confirm").is_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("#confirm", state="hidden")
    assert len(jobs.admin.dead_letters()) == 1
    drop.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#dead .empty:visible")
    assert page.locator("#said").text_content().endswith("is dropped.")
    assert jobs.admin.dead_letters() == []


def ask_for_much(page: "playwright.Page") -> None:
    """Have the playground's next job generate 900 tokens."""

    def endless(route: "playwright.Route") -> None:
        route.continue_(post_data=json.dumps(route.request.post_data_json | {"ignore_eos": True, "seed": 1}))

    page.route("**/v1/jobs", endless)
    page.fill("#play [name=max_tokens]", "900")


def tokens_per_second(page: "playwright.Page") -> float:
    """The rate that the page shows. The page's policy forbids what Playwright's `wait_for_function` does."""
    shown = page.inner_text("#f-rate").replace(",", "")
    return float(shown) if shown[:1].isdigit() else 0.0


def playground_text(page: "playwright.Page") -> str:
    """What the playground shows of a stream."""
    chunks = "[...document.querySelectorAll('#play-text .chunk')]"
    text: str = page.evaluate(f"{chunks}.map(chunk => chunk.textContent).join('')")
    return text


def test_the_playgrounds_stream_survives_a_cut_connection_and_a_killed_worker(
    page, jobs, shared_gateway, slow_steps
):
    ask_for_much(page)
    with slow_steps():
        page.click("#play button.main")
        page.wait_for_selector("#play-text .chunk")
        page.wait_for_selector("#play-log >> text=/runs on/")
        dashboard, draining = shared_gateway.server.config.app.state.dashboard, shared_gateway.state.draining
        shared_gateway.loop.call_soon_threadsafe(draining.set)
        wait_until(lambda: dashboard.pages == 0)
        shared_gateway.loop.call_soon_threadsafe(draining.clear)
        page.wait_for_selector("#play-log >> text=/connection lost at token/")
        page.wait_for_selector("#play-log >> text=/continued at token/")
        job = jobs.job(jobs.admin.jobs(state=JobState.RUNNING).jobs[0].job_id)
        kill_engine_of(job, jobs)
    page.wait_for_selector("#play-log >> text=/took over from/")
    page.wait_for_selector("#play-log >> text=/succeeded .* after 900 tokens/", timeout=3 * WAIT_MS)
    assert playground_text(page) == job.result(timeout_s=WAIT_S).text


REFUSED = r"^Failed to load resource: net::ERR_"
"""What Chromium itself logs of each connection that fails."""


def test_a_page_whose_gateway_is_killed_says_so_and_goes_on_by_itself_when_it_is_there_again(
    browser, errors, stack_redis, worker, jobs, slow_steps, free_port, tmp_path
):
    url = f"http://127.0.0.1:{free_port}"
    options = ("--no-auth", "--port", str(free_port), "--redis", stack_redis.url)
    gateway = Restartable(
        *("-m", "headrace.cli", "gateway", *options),
        log=tmp_path / "gateway.log",
        HEADRACE_FILES_URL=files_of(stack_redis.url),
    )
    try:
        wait_until(lambda: answers(f"{url}/healthz"))
        with opened(browser, url, errors, but=REFUSED) as page:
            ask_for_much(page)
            with slow_steps():
                page.click("#play button.main")
                page.wait_for_selector("#play-text .chunk")
                gateway.kill()
                page.locator("#link[data-state=lost]", has_text="no answer from the gateway").wait_for()
                page.wait_for_selector("#play-log >> text=/connection lost at token/")
                job = jobs.job(jobs.admin.jobs(state=JobState.RUNNING).jobs[0].job_id)
                gateway.start()
                page.wait_for_selector("#play-log >> text=/continued at token/")
                page.wait_for_selector("#link[data-state=live]")
                other = jobs.enqueue("A", model="demo", max_tokens=900, ignore_eos=True, job_class="batch")
                page.wait_for_selector("#streams tbody tr[data-class=batch]")
                wait_until(lambda: tokens_per_second(page) > 0)
                other.cancel()
            page.wait_for_selector("#play-log >> text=/succeeded .* after 900 tokens/", timeout=3 * WAIT_MS)
            assert playground_text(page) == job.result(timeout_s=WAIT_S).text
    finally:
        gateway.kill()
