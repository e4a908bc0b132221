"""The sandbox's page in a real browser, fed by a real client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import urllib3
from needed import IS_CI

import cms_python
from cms_python import CMSClient
from cms_python.sandbox import Sandbox

if find_spec("playwright") is None and not IS_CI:
    pytest.skip("Playwright is not installed.", allow_module_level=True)

from playwright.sync_api import (
    Browser,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# A busy machine draws a thousand rows slowly.
expect.set_options(timeout=30_000)

WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests; each test opens a page of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if IS_CI else pytest.skip)("Chromium is not installed.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield running
        running.close()


class Visitor:
    """Opens pages, and keeps what went wrong on them and where they went."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.troubles: list[str] = []
        self.addresses: list[str] = []
        self.opened: list[str] = []
        self.usual = self._new_page()

    def _new_page(self, **options: Any) -> Page:
        page = self.browser.new_page(**{"viewport": WIDE, "locale": "en-GB", **options})
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))
        return page

    def open(self, url: str, **options: Any) -> Page:
        """A browser for each set of options; without any, the one that is there."""
        page = self._new_page(**options) if options else self.usual
        self.opened.append(f"{url}/")
        page.goto(url)
        expect(page.locator("#connection")).to_have_text("Live")
        return page

    def leave(self) -> None:
        """Close all pages but the usual one, and leave that."""
        for context in self.browser.contexts:
            if self.usual not in context.pages:
                context.close()
        self.usual.goto("about:blank")


@pytest.fixture(scope="module")
def any_visitor(browser: Browser) -> Visitor:
    return Visitor(browser)


@pytest.fixture
def visitor(any_visitor: Visitor) -> Iterator[Visitor]:
    """Every test also shows that its page logs no error and asks nobody but its sandbox."""
    any_visitor.troubles.clear()
    any_visitor.addresses.clear()
    any_visitor.opened.clear()
    yield any_visitor
    any_visitor.leave()
    assert [] == any_visitor.troubles
    own = (*any_visitor.opened, "data:image/")
    assert [] == [each for each in any_visitor.addresses if not each.startswith(own)]


@pytest.fixture
def page(visitor: Visitor, sandbox: Sandbox) -> Page:
    return visitor.open(sandbox.url)


def events(page: Page) -> Locator:
    return page.locator("#rows").get_by_role("row")


def names(page: Page) -> Locator:
    return page.locator("#rows .event")


def lead(client: CMSClient, name: str, customer: str = "user_42", **more: Any) -> None:
    assert client.track_lead(name, customer, "id_123", **more)["success"] is True


def sell(client: CMSClient, invoice: str, amount: int = 4999, currency: str = "USD") -> None:
    result = client.track_sale("id_123", "purchase", "user_42", invoice, amount, currency)
    assert result["success"] is True


def test_an_event_appears_the_moment_it_arrives(page: Page, client: CMSClient) -> None:
    """The newest stands on top, with customer, amount and status, and nobody has to reload."""
    lead(client, "signup", customer_name="Jane Doe")
    sell(client, "inv_1", 123456)
    expect(names(page)).to_have_text(["purchase", "signup"])
    sale, signup = events(page).all()
    expect(sale).to_contain_text("1,234.56 USD")
    expect(sale.locator(".status")).to_have_text("200")
    expect(signup).to_contain_text("Jane Doe user_42")
    expect(page.get_by_text("2 new events")).to_be_attached()


def test_what_came_before_the_page_is_there(
    sandbox: Sandbox, client: CMSClient, visitor: Visitor
) -> None:
    """Who opens the page late sees the same."""
    lead(client, "signup")
    lead(client, "trial")
    expect(names(visitor.open(sandbox.url))).to_have_text(["trial", "signup"])


def test_an_empty_sandbox_tells_how_to_point_an_application_at_it(
    page: Page, sandbox: Sandbox
) -> None:
    """Three lines to copy and run, which go away with the first event."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f"export CMS_HOST={sandbox.url}" == copied.splitlines()[0]
    assert 3 == len(copied.splitlines())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", copied], check=True, env={**os.environ, "PATH": path})
    expect(names(page)).to_have_text(["signup"])
    expect(page.get_by_text("Waiting for the first event")).to_be_hidden()


def test_the_filter_shows_leads_sales_or_refusals(page: Page, client: CMSClient) -> None:
    """What was refused is found among what was not, before and after it arrives."""
    lead(client, "signup")
    sell(client, "inv_1")
    client.track_lead("kyc", "nobody")
    expect(names(page)).to_have_text(["kyc", "purchase", "signup"])
    page.get_by_role("radio", name="Sales").check()
    expect(names(page)).to_have_text(["purchase"])
    page.get_by_role("radio", name="Leads").check()
    expect(names(page)).to_have_text(["kyc", "signup"])
    page.get_by_role("radio", name="Refused").check()
    expect(names(page)).to_have_text(["kyc"])
    lead(client, "trial")
    client.track_lead("demo", "nobody")
    expect(names(page)).to_have_text(["demo", "kyc"])


@pytest.fixture
def refunds(tmp_path: Path) -> Iterator[str]:
    """The address of a sandbox whose contract has refunds in the place of sales."""
    package = Path(cms_python.__file__).parent
    shutil.copytree(package, tmp_path / "cms_python")
    contract = tmp_path / "cms_python" / "openapi.yaml"
    text = contract.read_text(encoding="utf-8")
    for of_sales in ("/track/sale", "x-kind: sale"):
        text = text.replace(of_sales, of_sales.replace("sale", "refund"))
    contract.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "cms_python.sandbox", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rstrip("\n")
        process.terminate()


def test_the_kinds_of_event_are_those_of_the_contract(browser: Browser, refunds: str) -> None:
    """Each has a filter and a counter, without a change of the page."""
    for kind in ("lead", "refund"):
        urllib3.request("POST", f"{refunds}/track/{kind}", json={"eventName": f"a {kind}"})
    visitor = Visitor(browser)
    page = visitor.open(refunds)
    expect(page.locator("#rows .kind")).to_have_text(["Refund", "Lead"])
    expect(page.locator(".counters dt")).to_have_text(
        ["Leads", "Refunds", "Refused", "Duplicates", "Stored clicks"]
    )
    page.get_by_role("radio", name="Refunds").check()
    expect(names(page)).to_have_text(["a refund"])
    urllib3.request("POST", f"{refunds}/track/lead", json={"eventName": "another lead"})
    urllib3.request("POST", f"{refunds}/track/refund", json={"eventName": "another refund"})
    expect(names(page)).to_have_text(["another refund", "a refund"])
    page.close()
    assert [] == visitor.troubles


def test_the_search_finds_customers_clicks_and_invoices(page: Page, client: CMSClient) -> None:
    """Letter case does not matter, and events that arrive later are searched as well."""
    lead(client, "signup", customer_name="Jane Doe")
    lead(client, "signup", "user_43")
    sell(client, "inv_987")
    search = page.get_by_role("searchbox")
    search.fill("INV_98")
    expect(names(page)).to_have_text(["purchase"])
    search.fill("jane")
    expect(names(page)).to_have_text(["signup"])
    lead(client, "trial", "user_44", customer_name="Jane Roe")
    lead(client, "trial", "user_45")
    expect(names(page)).to_have_text(["trial", "signup"])
    search.fill("no such thing")
    expect(page.get_by_text("No event matches")).to_be_visible()
    page.get_by_role("button", name="Show all events").click()
    expect(events(page)).to_have_count(5)


def test_the_details_show_what_was_sent_and_answered(page: Page, client: CMSClient) -> None:
    """Payload, headers without the token, answer and verdict."""
    lead(client, "signup", customer_email="jane@example.com", idempotency_key="key-1")
    events(page).first.click()
    panel = page.get_by_role("complementary", name="signup")
    expect(panel).to_contain_text("It counted.")
    expect(panel).to_contain_text('"customerEmail": "jane@example.com"')
    expect(panel).to_contain_text('"message": "The lead has been recorded."')
    expect(panel).to_contain_text("Idempotency keykey-1")
    panel.get_by_text("Request headers").click()
    expect(panel).to_contain_text("Idempotency-Key")
    expect(panel.get_by_role("definition").filter(has_text="Bearer")).to_be_visible()
    assert "a-token" not in panel.inner_text()


def test_a_refusal_says_why(page: Page, client: CMSClient) -> None:
    """The status, the kind and the sentence stand on top."""
    client.track_lead("kyc", "user_42")
    events(page).first.click()
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("422")
    expect(verdict).to_contain_text("unprocessable_entity")
    expect(verdict).to_contain_text("A click id is needed")


def test_an_event_can_be_sent_again_with_curl(page: Page, client: CMSClient) -> None:
    """The command is shown, and the button copies exactly that."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    lead(client, 'it\'s a "signup"')
    events(page).first.click()
    command = page.locator("#curl pre")
    expect(command).to_contain_text("/track/lead")
    page.locator("#curl").get_by_role("button", name="Copy").click()
    expect(page.locator("#curl").get_by_role("button", name="Copied")).to_be_visible()
    assert command.text_content() == page.evaluate("navigator.clipboard.readText()")


def test_a_click_leads_to_its_customers_and_their_events(page: Page, client: CMSClient) -> None:
    """Each step is a link: to another event, or to all of a customer or click."""
    client.track_lead("captured", "user_42", "id_123", mode="deferred")
    client.track_lead("kyc", "user_42")
    sell(client, "inv_1")
    lead(client, "signup", "user_43")
    page.get_by_role("row").filter(has_text="kyc").click()
    path = page.locator(".path")
    expect(path).to_contain_text("id_123and 1 more customer")
    expect(path).to_contain_text("user_42stored by a deferred lead")
    path.get_by_role("button", name="purchase, 49.99 USD").click()
    expect(page.get_by_role("complementary", name="purchase")).to_be_visible()
    expect(page.get_by_role("row", selected=True)).to_contain_text("purchase")
    path.get_by_role("button", name="user_42").click()
    expect(names(page)).to_have_text(["purchase", "kyc", "captured"])


def test_duplicates_deferred_leads_and_replays_are_marked(page: Page, client: CMSClient) -> None:
    """Whoever wonders why an event did not count reads it in the list."""
    client.track_lead("captured", "user_42", "id_123", mode="deferred")
    client.track_lead("kyc", "user_42")
    client.track_lead("kyc", "user_42")
    for _ in range(2):
        sell_once = client.track_sale(
            "id_123", "purchase", "user_42", "inv_1", 1, "USD", idempotency_key="key-1"
        )
        assert sell_once["success"] is True
    marks = page.locator("#rows .marks")
    expect(marks.first).to_contain_text("replayed")
    expect(marks.nth(2)).to_contain_text("duplicate")
    expect(marks.nth(3)).to_have_text("via stored click")
    expect(marks.nth(4)).to_have_text("deferred")


def test_counters_revenue_and_chart_follow(page: Page, client: CMSClient) -> None:
    """Totals by currency, in its own smallest unit, and the number of events a minute."""
    lead(client, "signup")
    lead(client, "signup")
    sell(client, "inv_1", 100)
    sell(client, "inv_2", 250)
    sell(client, "inv_3", 1200, "JPY")
    client.track_lead("kyc", "nobody")
    client.track_lead("captured", "user_44", "id_9", mode="deferred")
    expect(page.locator(".counters dd")).to_have_text(["1", "3", "1", "1", "1"])
    expect(page.locator("#revenue li")).to_have_text(["JPY1,200", "USD3.50"])
    expect(page.get_by_role("img", name="Events a minute: 7 in 30 minutes")).to_be_visible()
    page.get_by_role("button", name="as a table").click()
    counts = page.locator("#chart-rows td:last-child").all_text_contents()
    assert 7 == sum(map(int, counts))


def test_a_fault_set_on_the_page_makes_a_call_fail_and_the_client_try_again(
    page: Page, client: CMSClient
) -> None:
    """The tester sees the failure, the retry, and the fault used up."""
    page.get_by_role("button", name="Faults").click()
    page.get_by_role("spinbutton", name="Calls").fill("1")
    page.get_by_role("button", name="Add fault").click()
    expect(page.locator("#active-faults")).to_contain_text("Status 503 · 1 call left")
    lead(client, "signup")
    expect(page.locator("#rows .status")).to_have_text(["200", "503"])
    expect(page.locator("#rows .marks").last).to_have_text("fault")
    expect(page.get_by_text("No fault is active.")).to_be_visible()


def test_a_connection_that_was_dropped_shows_as_such(
    page: Page, sandbox: Sandbox, client: CMSClient
) -> None:
    """There is no status then; the details say whether the event counted all the same."""
    sandbox.lose_next_answer()
    lead(client, "signup")
    expect(page.locator("#rows .status")).to_have_text(["200", "dropped"])
    expect(page.locator("#rows .status .bad")).to_have_count(1)
    expect(page.locator("#rows .marks")).to_have_text(["replayed", "fault: drop after"])
    events(page).last.click()
    expect(page.locator(".verdict")).to_contain_text("No answer was sent. It counted.")


def active_faults(sandbox: Sandbox) -> Any:
    return urllib3.request("GET", f"{sandbox.url}/_sandbox/faults").json()["faults"]


def test_every_kind_of_fault_can_be_set_and_cleared(page: Page, sandbox: Sandbox) -> None:
    """With a number of calls, a chance, or for good; one of them or all are taken back."""
    page.get_by_role("button", name="Faults").click()
    kinds = page.get_by_label("What happens")
    often = page.get_by_label("How often")
    kinds.select_option("status")
    page.get_by_label("Status", exact=True).fill("429")
    page.get_by_label("Retry-After").fill("2")
    often.select_option("probability")
    page.get_by_label("Percent").fill("25")
    add = page.get_by_role("button", name="Add fault")
    shown = page.locator("#active-faults li")
    add.click()
    expect(shown).to_have_count(1)
    often.select_option("always")
    for count, kind in enumerate(
        ("delay", "drop_before", "drop_after", "html_502", "silence"), start=2
    ):
        kinds.select_option(kind)
        add.click()
        expect(shown).to_have_count(count)
    expect(shown.first).to_contain_text("Status 429, Retry-After 2 · 25 % of calls")
    expect(shown.nth(1)).to_contain_text("1.5 s late · every call")
    page.get_by_role("button", name="Remove HTML page, 502").click()
    expect(shown).to_have_count(5)
    kinds_left = ["status", "delay", "drop_before", "drop_after", "silence"]
    assert kinds_left == [fault["kind"] for fault in active_faults(sandbox)]
    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_text("No fault is active.")).to_be_visible()
    assert [] == active_faults(sandbox)


def test_a_fault_that_another_page_sets_is_shown(page: Page, sandbox: Sandbox) -> None:
    """Nobody wonders why calls fail: the button counts the faults that are active."""
    body = json.dumps({"faults": [{"kind": "drop_before", "times": 3}]})
    headers = {"Content-Type": "application/json"}
    urllib3.request("PUT", f"{sandbox.url}/_sandbox/faults", body=body, headers=headers)
    expect(page.get_by_role("button", name="Faults (1)")).to_be_visible()


def test_reset_asks_first(page: Page, sandbox: Sandbox, client: CMSClient) -> None:
    """Cancel keeps everything; Reset empties the list, the counters and the panel."""
    lead(client, "signup")
    events(page).first.click()
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Cancel").click()
    expect(names(page)).to_have_text(["signup"])
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("dialog").get_by_role("button", name="Reset").click()
    expect(page.get_by_text("Waiting for the first event")).to_be_visible()
    expect(page.locator("#count-leads")).to_have_text("0")
    expect(page.locator("#panel")).to_be_hidden()
    assert [] == sandbox.events


MARKUP = "<script>document.title = 'x'</script><img src=x onerror=\"document.title = 'x'\">"


def test_what_an_application_sends_never_becomes_markup(page: Page, client: CMSClient) -> None:
    """A script in a name stays the text that it is, in the list and in the details."""
    lead(client, MARKUP, customer=MARKUP, customer_name=MARKUP)
    expect(names(page)).to_have_text([MARKUP])
    events(page).first.click()
    expect(page.locator("#panel-title")).to_have_text(MARKUP)
    expect(page.locator(".path")).to_contain_text(MARKUP)
    expect(page.locator("#curl pre")).to_contain_text("curl")
    assert 0 == page.locator("#app script, #app img").count()
    assert "CutMeShort sandbox" == page.title()


def test_the_list_works_by_keyboard_alone(page: Page, client: CMSClient) -> None:
    """/ searches, Tab enters the list, arrows move, Enter opens, Escape closes."""
    for name in ("first", "second", "third"):
        lead(client, name)
    expect(events(page)).to_have_count(3)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="All")).to_be_focused()
    page.keyboard.press("Tab")
    expect(events(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(events(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#panel-title")).to_have_text("second")
    page.keyboard.press("End")
    expect(page.locator("#panel-title")).to_have_text("first")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Close details")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    expect(events(page).nth(2)).to_be_focused()


def test_a_phone_shows_cards_and_the_details_over_the_whole_screen(
    visitor: Visitor, sandbox: Sandbox, client: CMSClient
) -> None:
    """Nothing has to be scrolled sideways, whatever the length of a name."""
    lead(client, "a_very_long_event_name_" * 6, customer_name="Jane " * 20)
    sell(client, "inv_1", 123456789)
    page = visitor.open(sandbox.url, viewport=PHONE)
    expect(events(page)).to_have_count(2)
    page.get_by_role("button", name="Faults").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    events(page).last.click()
    panel = page.get_by_role("dialog")
    expect(panel).to_contain_text("curl")
    assert panel.bounding_box() == {"x": 0, "y": 0, **PHONE}
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Close details").click()
    expect(events(page).last).to_be_focused()


def test_nothing_moves_for_who_asks_for_less_motion(
    visitor: Visitor, sandbox: Sandbox, client: CMSClient
) -> None:
    """A new row is lit up for others, and simply there for them."""
    page = visitor.open(sandbox.url, reduced_motion="reduce")
    lead(client, "signup")
    expect(page.locator(".fresh")).to_have_css("animation-name", "none")


# The texts on the page whose contrast with what lies behind them is too low.
CONTRAST = """
() => {
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color.endsWith(', 0)') && element.parentElement ? behind(element.parentElement) : color;
  };
  const ratio = (element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
  return [...document.querySelectorAll('#app *')]
    .filter((element) => element.checkVisibility() && [...element.childNodes].some(isText))
    .filter((element) => ratio(element) < 4.5)
    .map((element) => `${ratio(element)} ${element.outerHTML.slice(0, 80)}`);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(
    visitor: Visitor, sandbox: Sandbox, client: CMSClient, scheme: str
) -> None:
    """At least 4.5 to 1 in the light and in the dark scheme, as WCAG asks."""
    client.track_lead("captured", "user_42", "id_123", mode="deferred")
    client.track_lead("kyc", "user_42")
    client.track_lead("kyc", "user_42")
    client.track_lead("kyc", "nobody")
    sell(client, "inv_1")
    page = visitor.open(sandbox.url, color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Faults").click()
    page.get_by_role("button", name="Add fault").click()
    expect(page.get_by_role("button", name="Clear all")).to_be_visible()
    events(page).first.click()
    expect(page.locator("#curl pre")).to_contain_text("curl")
    assert [] == page.evaluate(CONTRAST)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (scheme == "dark") == (background == "rgb(17, 21, 27)")


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Sandbox]:
    """One that keeps more than the newest thousand events."""
    with Sandbox(db=tmp_path / "sandbox.db") as running:
        yield running


def test_a_thousand_events_load_and_stay_usable(filed: Sandbox, visitor: Visitor) -> None:
    """The list keeps the newest thousand, and goes on searching, opening and growing."""
    client = CMSClient("a-token", filed.url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: lead(client, "signup", f"user_{number:04}"), range(1000)))
    page = visitor.open(filed.url)
    expect(events(page)).to_have_count(1000)
    page.get_by_role("searchbox").fill("user_0007")
    expect(events(page)).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    expect(events(page)).to_have_count(1000)
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("There are no older events.")).to_be_visible()
    page.get_by_role("button", name="Newest").click()
    expect(events(page)).to_have_count(1000)
    for number in range(1000, 1020):
        lead(client, "signup", f"user_{number:04}")
    expect(events(page).first).to_contain_text("user_1019")
    expect(events(page)).to_have_count(1000)
    events(page).first.focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#panel-title")).to_have_text("signup")
    expect(page.locator("#count-leads")).to_have_text("1,020")
    page.get_by_role("button", name="Close details").click()
    # Those that the new ones took the place of.
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("These are older events.")).to_be_visible()
    expect(events(page)).to_have_count(20)
    page.get_by_role("button", name="Newest").click()
    expect(events(page)).to_have_count(1000)
    client.close()


def test_the_page_comes_back_when_the_sandbox_does(any_visitor: Visitor) -> None:
    """It says that it is cut off, and is live again without a reload."""
    with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        page = any_visitor.open(sandbox.url)
    expect(page.locator("#connection")).to_have_text("Reconnecting")
    with Sandbox(port) as another, CMSClient(token="a-token", host=another.url) as client:
        lead(client, "signup")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(names(page)).to_have_text(["signup"])
        any_visitor.leave()
