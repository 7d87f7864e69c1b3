"""A headless browser for tests that look at a page; they are skipped where there is none."""

import shutil
from contextlib import contextmanager

import pytest

# Nothing is fetched, and no graphics card, sandbox or desktop is needed.
OPTIONS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-extensions',
    '--no-first-run',
    '--window-size=1200,900',
)


@contextmanager
def opened(page, folder):
    """Open a page's file in Chromium by its driver (Debian: chromium, chromium-driver)."""
    webdriver = pytest.importorskip('selenium.webdriver')
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    service = shutil.which('chromedriver')
    if not browser or not service:
        pytest.skip('no chromium with chromedriver')
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f'--user-data-dir={folder}'):
        options.add_argument(option)
    options.binary_location = browser
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options, webdriver.chrome.service.Service(service))
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()
