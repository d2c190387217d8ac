"""Find a browser for the tests, or install one.

python -m tests.browser.browser    prints its path, or says what to do
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Playwright

VARIABLE = "LLAMA_VIZ_BROWSER"

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS_PATHS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

# With the fonts that show emoji and right-to-left text as themselves.
DEBIAN_PACKAGES = ("chromium", "fonts-dejavu-core", "fonts-noto-color-emoji")

# A browser that serves one test: it speaks with this machine alone, draws the same without a
# graphics card, and runs as root in a container, where Chromium's sandbox cannot.
LAUNCH_FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
)

ADVICE = f"""\
No browser was found, and none could be installed. The browser tests need Chromium or Chrome:
  Debian     apt-get install {" ".join(DEBIAN_PACKAGES)}
  Ubuntu     snap install chromium
  macOS      brew install --cask chromium
  any other  install Chrome, and set {VARIABLE} to the path of its program
Then run the tests again."""


class NoBrowserError(RuntimeError):
    """There is no browser; the message says what to do."""


def launch(playwright: Playwright) -> Browser:
    """Start the browser of the tests."""
    return playwright.chromium.launch(
        executable_path=find_or_install_browser(), args=list(LAUNCH_FLAGS)
    )


def find_or_install_browser() -> Path:
    """The path of a browser that starts, installed first where there is none.

    Raises NoBrowserError, which says what to do.
    """
    browser = find_browser()
    if browser is None:
        install_with_playwright()
        browser = find_browser()
    if browser is None:
        install_with_apt()
        browser = find_browser()
    if browser is None:
        raise NoBrowserError(ADVICE)
    return browser


def find_browser() -> Path | None:
    """The path of a browser that starts; the environment variable has the first word."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        if not starts(chosen):
            raise NoBrowserError(f"{VARIABLE} is {chosen}, and that does not start")
        return Path(chosen)
    return next((Path(path) for path in candidates() if starts(path)), None)


def candidates() -> Iterator[str]:
    """Where a browser may be, the machine's own first."""
    yield from filter(None, map(shutil.which, NAMES))
    yield from MACOS_PATHS
    # Where Playwright keeps its download, there or not. Asked in another process, since a caller
    # may have Playwright running, and it runs only once in each.
    question = (
        "from playwright.sync_api import sync_playwright as start\n"
        "with start() as playwright: print(playwright.chromium.executable_path)"
    )
    yield subprocess.check_output([sys.executable, "-c", question], text=True).strip()


def starts(path: str) -> bool:
    """Whether a program is there and tells its version.

    Ubuntu's chromium-browser may be a note that points to snap, and a downloaded browser may lack
    libraries of the system.
    """
    return Path(path).exists() and succeeds(path, "--version", seconds=30)


def install_with_playwright() -> None:
    """Let Playwright download its Chromium; without the internet that fails, and others follow."""
    say("no browser found; trying Playwright's download")
    succeeds(sys.executable, "-m", "playwright", "install", "chromium", seconds=120)


def install_with_apt() -> None:
    """Install Debian's Chromium, where this is Debian and we may."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    say(f"installing {', '.join(DEBIAN_PACKAGES)} with apt-get")
    # Another installation may be under way, at the start of a machine above all: wait for it.
    apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300")
    options = ("--yes", "--no-install-recommends")
    if succeeds(*apt, "update", seconds=300):
        succeeds(*apt, "install", *options, *DEBIAN_PACKAGES, seconds=900)


def succeeds(*command: str, seconds: float) -> bool:
    """Run a command within a time, say why where it fails, and whether it succeeded."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                start_new_session=True,
            )
            status = process.wait(seconds)
        except OSError as error:
            say(str(error))
            return False
        except subprocess.TimeoutExpired as error:
            # The download is done by a child of the child: end them all.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            say(str(error))
            return False
        output.seek(0)
        lines = output.read().decode("utf-8", errors="replace").split("\n")
    if status:
        reason = next((line for line in lines if "rror" in line or line.startswith("E: ")), "")
        say(f"{' '.join(command)} failed: {reason.strip() or f'exit {status}'}")
    return status == 0


def say(text: str) -> None:
    """Tell the person who waits; the answer itself goes to standard output."""
    print(f"browser: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(f"browser: {find_or_install_browser()}")
    except NoBrowserError as error:
        sys.exit(str(error))
