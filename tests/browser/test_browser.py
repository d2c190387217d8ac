"""The browser of the tests: found in order, and one clear message where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.browser import browser


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_it_starts_and_shows_a_page() -> None:
    with sync_playwright() as playwright:
        page = browser.launch(playwright).new_page()
        page.set_content("<h1>שלום 🦙</h1>")
        assert page.inner_text("h1") == "שלום 🦙"


def test_the_environment_variable_has_the_first_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = program(tmp_path, "mine", "echo 1")
    monkeypatch.setenv(browser.VARIABLE, str(chosen))
    assert browser.find_or_install_browser() == chosen
    monkeypatch.setenv(browser.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(browser.NoBrowserError, match="does not start"):
        browser.find_or_install_browser()


def test_a_browser_that_does_not_start_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "chromium", "echo please install something else; exit 1")
    good = program(tmp_path, "google-chrome", "echo 1")
    monkeypatch.delenv(browser.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.find_browser() == good


def test_without_any_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    monkeypatch.setattr(browser, "install_with_playwright", lambda: tried.append("playwright"))
    monkeypatch.setattr(browser, "install_with_apt", lambda: tried.append("apt"))
    with pytest.raises(browser.NoBrowserError, match=browser.VARIABLE):
        browser.find_or_install_browser()
    assert tried == ["playwright", "apt"]


def test_a_command_that_takes_too_long_is_ended_with_its_children(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not browser.succeeds("sh", "-c", "sleep 60 & wait", seconds=0.5)
    assert "timed out" in capsys.readouterr().err
