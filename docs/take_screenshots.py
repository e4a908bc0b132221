"""Takes the pictures of the sandbox's page that docs/sandbox.md shows.

    python docs/take_screenshots.py

Needs the extra ``dev`` and Chromium (Debian's package ``chromium``). A sandbox gets a little story,
sent by a real client, and its page is looked at in three ways.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone, tzinfo
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from cms_python import CMSClient
from cms_python.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = Path(__file__).parent / "images"
CHROMIUM_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

CUSTOMERS = {
    "user_1041": ("Amara Okafor", "id_8fQ2mXvK"),
    "user_1042": ("Jonas Lindqvist", "id_8fQ2mXvK"),
    "user_1043": ("Mei Tanaka", "id_Lr71ZtYc"),
    "user_1044": ("Sofía Herrera", "id_p0WbN4sD"),
    "user_1045": ("Daniel Kowalski", "id_Lr71ZtYc"),
    "user_1046": ("Priya Raman", "id_p0WbN4sD"),
    "user_1047": ("Noah Fischer", "id_c5JhE9aR"),
    "user_1048": ("Lucía Prieto", None),
}
# Minutes ago, event, customer.
LEADS = [
    (28.4, "signup_started", "user_1041"), (27.7, "email_confirmed", "user_1041"),
    (27.3, "signup_started", "user_1042"), (26.6, "email_confirmed", "user_1042"),
    (26.4, "profile_completed", "user_1041"), (26.1, "trial_started", "user_1041"),
    (25.2, "trial_started", "user_1042"), (23.9, "plan_compared", "user_1041"),
    (19.8, "signup_started", "user_1043"), (19.1, "email_confirmed", "user_1043"),
    (18.9, "signup_started", "user_1044"), (18.6, "email_confirmed", "user_1044"),
    (18.3, "profile_completed", "user_1043"), (18.1, "trial_started", "user_1043"),
    (17.4, "trial_started", "user_1044"), (17.1, "plan_compared", "user_1043"),
    (16.2, "plan_compared", "user_1044"), (11.8, "signup_started", "user_1045"),
    (11.1, "email_confirmed", "user_1045"), (10.4, "demo_requested", "user_1045"),
    (6.4, "signup_started", "user_1046"), (6.1, "email_confirmed", "user_1046"),
    (5.6, "profile_completed", "user_1046"), (5.2, "trial_started", "user_1046"),
]  # fmt: skip
# Minutes ago, customer, invoice, amount, currency.
SALES = [
    (22.7, "user_1041", "inv_2201", 4900, "USD"),
    (15.5, "user_1043", "inv_2202", 12800, "JPY"),
    (13.2, "user_1044", "inv_2203", 19900, "EUR"),
    (4.6, "user_1042", "inv_2204", 124900, "USD"),
]


class Story:
    """Half an hour of a small shop: sends each event at its time, which lies in the past."""

    def __init__(self, sandbox: Sandbox, client: CMSClient) -> None:
        self.sandbox = sandbox
        self.client = client
        self.now = datetime.now(timezone.utc)

    @contextmanager
    def at(self, minutes_ago: float) -> Iterator[None]:
        then = self.now - timedelta(minutes=minutes_ago)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return then.astimezone(tz)

        with mock.patch("cms_python.sandbox.entries.datetime", Clock):
            yield

    def tell(self) -> None:
        beginning = [(lead[0], partial(self.lead, *lead)) for lead in LEADS]
        beginning += [(sale[0], partial(self.sell, *sale)) for sale in SALES]
        for _, send in sorted(beginning, key=lambda each: -each[0]):
            send()
        self.tell_the_end()

    def tell_the_end(self) -> None:
        """The newest events: one of every kind that the page marks."""
        self.lead(3.4, "lead_captured", "user_1047", mode="deferred")
        self.lead(2.9, "kyc_completed", "user_1047", has_click=False)
        self.lead(2.3, "signup_started", "user_1044")
        self.lead(1.7, "kyc_completed", "user_1048")
        self.sandbox.fail_next(503)
        self.sell(1.4, "user_1047", "inv_2205", 7900, "EUR")

    def lead(
        self,
        minutes_ago: float,
        event: str,
        customer: str,
        has_click: bool = True,
        mode: Literal["deferred"] | None = None,
    ) -> None:
        name, click = CUSTOMERS[customer]
        with self.at(minutes_ago):
            self.client.track_lead(event, customer, click if has_click else None, name, mode=mode)

    def sell(
        self, minutes_ago: float, customer: str, invoice: str, amount: int, currency: str
    ) -> None:
        name, click = CUSTOMERS[customer]
        with self.at(minutes_ago):
            self.client.track_sale(
                click or "", "purchase_completed", customer, invoice, amount, currency, name
            )


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.stderr.write("Chromium is missing: apt-get install chromium\n")
        return 2
    IMAGES.mkdir(exist_ok=True)
    with Sandbox() as sandbox, sync_playwright() as playwright:
        with CMSClient("eyJhbGciOiJIUzI1NiJ9.story", host=sandbox.url) as client:
            Story(sandbox, client).tell()
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        take_wide(browser, sandbox, "light")
        take_wide(browser, sandbox, "dark")
        take_phone(browser, sandbox)
        browser.close()
    return 0


@contextmanager
def opened(browser: Browser, sandbox: Sandbox, **options: Any) -> Iterator[Page]:
    """The page, once it shows everything."""
    context = browser.new_context(reduced_motion="reduce", locale="en-GB", **options)
    page = context.new_page()
    page.goto(sandbox.url)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.locator("#chart .bar").first).to_be_attached()
    yield page
    context.close()


def take_wide(browser: Browser, sandbox: Sandbox, scheme: Literal["light", "dark"]) -> None:
    """The list, and in the light one the details of a sale."""
    size: ViewportSize = {"width": 1440, "height": 960}
    with opened(browser, sandbox, viewport=size, color_scheme=scheme) as page:
        if scheme == "light":
            page.get_by_role("row").filter(has_text="79.00").first.click()
            expect(page.locator("#curl pre")).to_contain_text("/track/sale")
            expect(page.locator(".path")).to_contain_text("kyc_completed")
        else:
            page.get_by_role("button", name="Faults").click()
            add_fault(page)
        page.mouse.move(0, 0)
        page.screenshot(path=IMAGES / f"sandbox-{scheme}.png")


def add_fault(page: Page) -> None:
    """Let the next two calls be asked to wait."""
    page.get_by_role("spinbutton", name="Calls").fill("2")
    page.get_by_label("Status", exact=True).fill("429")
    page.get_by_label("Retry-After").fill("1")
    page.get_by_role("button", name="Add fault").click()
    expect(page.get_by_role("button", name="Clear all")).to_be_visible()
    page.evaluate("document.activeElement.blur()")


def take_phone(browser: Browser, sandbox: Sandbox) -> None:
    """Cards instead of a table."""
    size: ViewportSize = {"width": 390, "height": 844}
    with opened(browser, sandbox, viewport=size, device_scale_factor=2) as page:
        page.screenshot(path=IMAGES / "sandbox-phone.png")


if __name__ == "__main__":
    raise SystemExit(main())
