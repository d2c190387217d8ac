"""What the browser tests share: one JupyterLab, one page, and a screenshot of what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.browser import launch
from tests.browser.lab import ROOT, Watch, jupyterlab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.browser.lab import Lab

SCREENSHOTS = ROOT / "build" / "screenshots"  # git ignores build/


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a copy of the notebooks."""
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[Page]:
    """A page as wide as a laptop, and high, so that what is looked at is in view."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
        yield page
        browser.close()


@pytest.fixture(scope="module")
def watch(page: Page, lab: Lab) -> Watch:
    """What the page says and whom it asks, from its start."""
    return Watch(page, lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep a picture of the page at the moment of a failure."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and page is not None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{item.name}.png"
        page.screenshot(path=path)
        report.sections.append(("screenshot", str(path)))
    return report
