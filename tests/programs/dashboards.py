"""A Dash application in a browser without a window."""

from __future__ import annotations

from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from programs.program import Program, Run, find

TEXT = "Text that comes back"
TICKS = 30
"""Callbacks of the clock that are waited for: three seconds of them."""
WITHIN = 60


def check(run: Run) -> None:
    """Type into a field; the answers of the callbacks and the graph have to appear."""
    with run.serve("dash_page", "--workers", "2") as server, browser(run.path("profile")) as page:
        page.get(f"{server.url}/")
        wait = WebDriverWait(page, WITHIN)
        wait.until(lambda page: page.find_elements(By.ID, "typed"))
        page.find_element(By.ID, "typed").send_keys(TEXT)
        wait.until(lambda page: page.find_element(By.ID, "told").text == TEXT[::-1])
        bars = len(TEXT) + 1
        wait.until(lambda page: len(page.find_elements(By.CSS_SELECTOR, "g.point")) == bars)
        wait.until(lambda page: int(page.find_element(By.ID, "ticks").text or 0) >= TICKS)
        severe = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
        assert not severe, severe


def browser(profile: Path) -> webdriver.Chrome:
    """Return a browser with a profile of its own, to be used by `with`."""
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium") or ""
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=find("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


PROGRAMS = [
    Program(
        "dash",
        "Dash",
        check,
        "a headless browser types and gets the answers of callbacks, a graph, and "
        f"{TICKS} ticks of a clock",
        packages=("dash", "selenium"),
        note="Dash sets itself up during the first request of a process, without a lock. On any "
        "server with threads, another request at that moment gets status 500. Make the first "
        'request where the application is imported: `app.server.test_client().get("/")`.',
        commands={"chromium": r"(\d+\.\S+)", "chromedriver": r"ChromeDriver (\S+)"},
    )
]
