"""Each page of the site: accessible, readable at each width, and complete by itself."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import SITE
from playwright.sync_api import Page, expect

PAGES = sorted(
    str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts
)
WIDTHS = (390, 900, 1400)
MAX_BYTES = 500_000
# What sticks out of the screen, other than in a box that scrolls.
TOO_WIDE = """() => {
  const main = document.querySelector("article[role=main]");
  const clipped = (element) => element !== main
    && (getComputedStyle(element).overflowX !== "visible" || clipped(element.parentElement));
  return [main, ...main.querySelectorAll("*")]
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
    .filter((element) => !clipped(element))
    .map((element) => element.outerHTML.slice(0, 100));
}"""

# A command of which a part is not in sight until the box is scrolled.
CUT_OFF = """() => [...document.querySelectorAll(".highlight-sh pre")]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => box.textContent)"""


def violations(page: Page) -> list[tuple[str, str]]:
    """What axe finds, and the first place of each."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(violation["id"], violation["nodes"][0]["html"]) for violation in found]


def test_there_are_pages():
    assert {"index.html", "twins/model.html", "porting.html", "api/gpt_flax.html"} <= set(PAGES)


def is_judged(name: str, theme: str, width: int) -> bool:
    """Colours do not depend on the width, nor what is shown on the theme: two of six tell all."""
    return name == "twins/model.html" or (theme, width) in (("light", 390), ("dark", 1400))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_light_and_dark_at_three_widths(name, page, site):
    errors, requests = [], []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{site}/{name}")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            if is_judged(name, theme, width):
                assert violations(page) == []
            assert page.evaluate(TOO_WIDE) == [], f"wider than {width} pixels"
            assert page.evaluate(CUT_OFF) == [], f"a command, at {width} pixels"
    assert errors == []
    assert {url for url in requests if not url.startswith(site)} == set()


@pytest.mark.parametrize(("theme", "width"), [("light", 390), ("dark", 1400)])
def test_a_broken_page(theme, width, page, site):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site}/twins/model.html#break-head-order")
    expect(page.locator(".broken")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("name", [name for name in PAGES if Path(name).parts[0] == "twins"])
def test_a_twin_page_is_small(name, page, site):
    sizes = []
    page.on("response", lambda response: sizes.append(len(response.body())))
    page.goto(f"{site}/{name}", wait_until="networkidle")
    assert 0 < sum(sizes) < MAX_BYTES
