"""A headless Chromium for tests: what it sees, clicks and keeps as screenshots."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from flows.servers.password import USER
from tests.processes import PATIENCE

Found = TypeVar("Found")

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1500,1100",
]
LOCAL = ("127.0.0.1", "localhost")


def missing() -> str | None:
    """Why there can be no browser, or None."""
    absent = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)} (Debian: chromium, chromium-driver)" if absent else None


def logged_in(url: str, password: str | None) -> str:
    """The address by which a browser need not ask for user and password."""
    return url.replace("http://", f"http://{USER}:{quote(password or '')}@", 1)


class Browser:
    """One window. PATIENCE bounds every wait for something to show; pages of a busy small machine take a while."""

    def __init__(self, driver: Chrome, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def open(self, url: str) -> None:
        """Go to an address."""
        self.driver.get(url)

    def rest(self) -> None:
        """Show an empty page: one that follows a run takes half a core from it, drawn without a GPU."""
        self.open("about:blank")

    def log_in(self, prefect: str, password: str | None) -> None:
        """Open Prefect's first page, past the question for the password."""
        self.open(prefect)
        self.see("Login")
        self.find("input[type=password]").send_keys(f"{USER}:{password}")
        self.click("button[type=submit]")
        self.find("a", "Deployments")

    def text(self) -> str:
        """What the page shows."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def see(self, *words: str) -> None:
        """Wait until the page shows every one of these words, in whatever case."""
        self.until(
            lambda: all(word.casefold() in self.text().casefold() for word in words), f"the page to show {words}"
        )

    def find(self, selector: str, text: str | None = None) -> WebElement:
        """Wait for the first visible element of this CSS selector, and of exactly this text if one is given."""

        def search() -> WebElement | None:
            for element in self.driver.find_elements(By.CSS_SELECTOR, selector):
                if element.is_displayed() and text in (None, element.text.strip()):
                    return element
            return None

        return self.until(search, f"{selector} {text or ''}")

    def click(self, selector: str, text: str | None = None) -> None:
        """Click such an element, after scrolling to it, once it stands still: a click on what moves goes astray."""
        places = [{}]

        def press() -> bool:
            element = self.find(selector, text)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
            places.append(self.driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", element))
            if places[-1] != places[-2]:
                return False
            element.click()
            return True

        self.until(press, f"to click {selector} {text or ''}")

    def labelled(self, label: str) -> WebElement:
        """Wait for the field that a visible label of this text is for."""
        name = self.find("label", label).get_attribute("for")
        return self.find(f"[id='{name}']")

    def resize(self, width: int, height: int) -> None:
        """Make the window this large: 1280 wide as a desk has it, 390 as a telephone."""
        self.driver.set_window_size(width, height)

    def gone(self, selector: str) -> None:
        """Wait until nothing of this CSS selector is left."""
        self.until(lambda: not self.driver.find_elements(By.CSS_SELECTOR, selector), f"{selector} to go")

    def until(self, ready: Callable[[], Found | None], what: str) -> Found:
        """The first true value of `ready()`; an AssertionError that quotes the page when there is none in time."""
        wait = WebDriverWait(self.driver, PATIENCE, 0.2, [NoSuchElementException, StaleElementReferenceException])
        try:
            found = wait.until(lambda _: ready())
        except TimeoutException:
            self.picture("failed")
            page = f"{self.driver.current_url}\n{self.text()[:3000]}"
            raise AssertionError(f"waited {PATIENCE} s for {what}; the page:\n{page}") from None
        assert found is not None  # or the wait would have gone on
        return found

    def picture(self, name: str) -> None:
        """Keep what the window shows as NAME.png."""
        assert self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def reached(self) -> set[str]:
        """The hosts beyond this machine that pages asked for and no policy stopped, since the last call."""
        asked: dict[str, str] = {}
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            values = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                asked[values["requestId"]] = values["request"]["url"]
            elif message["method"] == "Network.loadingFailed" and values.get("blockedReason") == "csp":
                asked.pop(values["requestId"], None)
        parts = [urlsplit(url) for url in asked.values()]
        return {part.hostname or "" for part in parts if part.scheme.startswith(("http", "ws"))} - set(LOCAL)


@contextmanager
def browser(profile: Path, pictures: Path) -> Iterator[Browser]:
    """A browser of a fresh profile, closed at the end."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # Nothing beyond this machine resolves, so the test is the same with and without a network.
    rules = f"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {LOCAL[0]} , EXCLUDE {LOCAL[1]}"
    for flag in [*FLAGS, rules, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.page_load_strategy = (
        "none"  # every step waits for what it needs; a page that never ends loading is no matter
    )
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    # The default of 300 s, tried again three times, would make a stuck page look like a stuck test.
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    try:
        yield Browser(driver, pictures)
    finally:
        driver.quit()
