"""The page in a headless browser: contents, sorting, filters, folds, widths and accessibility.

Uses the system's Chromium through Playwright, which downloads no browser of its own.
"""

from __future__ import annotations

import shutil

import pytest
from test_report import METHODS, TASKS, fake_failure, fake_run

from bench import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine; install it: apt-get install chromium", allow_module_level=True)
pytest.importorskip("playwright", reason="the extra `test` is not installed")

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

TABLE = ".ranked >> nth=0 >> table"
WIDTH = "document.documentElement.scrollWidth"
OPEN = "document.querySelectorAll('details').forEach(part => part.open = true)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    results = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patched:
        # A claim of the paper needs MNIST.
        patched.setitem(TASKS, "mnist", ("mnist", "notmnist", 10))
        for method, largest in METHODS.items():
            for seed in (0, 1):
                fake_run(results, method, "mnist", "quick", seed, largest)
    fake_failure(results)
    report.build(results)
    return results


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, folder):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on(
        "request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url)
    )
    page.goto((folder / "report.html").as_uri())
    yield page
    assert not faults
    page.close()


def column(page: Page, index: int) -> list[str]:
    """The texts of a column of the first ranked table, without hidden lines."""
    cells = page.locator(f"{TABLE} tbody tr:visible > :nth-child({index})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_every_entry_of_the_contents_leads_to_a_part_of_the_page(page):
    links = page.locator("nav a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert {"#answers", "#quick-cpu-mnist", "#claims", "#methods", "#method-hypergan"} <= set(links)
    assert page.evaluate("links => links.filter(at => !document.getElementById(at.slice(1)))", links) == []


def test_a_click_or_a_key_sorts_and_aria_sort_says_how(page):
    head = page.locator(f"{TABLE} thead th").nth(3)
    head.get_by_role("button").click()
    falling = [float(text.split()[0]) for text in column(page, 4)]
    assert falling == sorted(falling, reverse=True) and len(falling) == len(METHODS)
    assert head.get_attribute("aria-sort") == "descending"  # more is better, so the best comes first
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    rising = [float(text.split()[0]) for text in column(page, 4)]
    assert rising == falling[::-1] and head.get_attribute("aria-sort") == "ascending"
    assert page.locator(f"{TABLE} [aria-sort]").count() == 1


def test_lines_are_chosen_by_size_and_by_family(page):
    assert sorted(column(page, 1)) == sorted(METHODS)
    size, family = page.locator(".ranked select").all()[:2]
    size.select_option("5")
    assert column(page, 3) == ["5"] * len(METHODS)
    size.select_option("")
    family.select_option("hypergan")
    assert column(page, 1) == ["hypergan"] * 4


def test_folds_are_closed_say_what_they_hold_and_open_for_a_link(page):
    folds = page.locator("details.fold")
    assert not folds.evaluate_all("folds => folds.filter(fold => fold.open).length")
    assert all(text.strip() for text in page.locator("details.fold > summary").all_inner_texts())
    chip = page.locator("a.chip").first
    target = page.locator(f"details{chip.get_attribute('href')}")
    assert not target.evaluate("fold => fold.open")
    chip.click()
    assert target.evaluate("fold => fold.open")
    page.locator(f"{TABLE} tbody tr:visible a").first.click()
    assert page.locator("tr:target").is_visible()


@pytest.mark.parametrize(("width", "media"), [(390, "screen"), (1440, "screen"), (1032, "print")])
def test_the_page_never_scrolls_sideways(page, width, media):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(media=media)
    page.evaluate(OPEN)
    assert page.evaluate(WIDTH) <= width
    if media == "print":  # nothing scrolls on paper
        assert (
            page.locator(".wide").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth + 1)")
            == []
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.evaluate(OPEN)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_head_and_first_column_stay_in_sight(page):
    place = "cell => getComputedStyle(cell).position"
    assert page.locator(f"{TABLE} thead th").first.evaluate(place) == "sticky"
    assert page.locator(f"{TABLE} tbody th").first.evaluate(place) == "sticky"


def test_without_a_script_all_lines_are_shown_and_nothing_dead_is(browser, folder):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator(f"{TABLE} tbody tr:visible").count() == 4 + 4 + 3
    assert page.locator("button, select").count() == 0
    page.close()
