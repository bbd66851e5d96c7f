"""The twin pages in a browser: what they show, and how they are used."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]
PARITY = json.loads((ROOT / "docs/figures/parity.json").read_text())["functions"]
FAULTS = json.loads((ROOT / "docs/figures/faults.json").read_text())["faults"]
FILES = sorted(path.stem for path in (ROOT / "docs/twins").glob("*.md"))
IN_MODEL = [fault for fault in FAULTS if fault["file"].endswith("/model.py")]


@pytest.fixture
def model(page: Page, site: str) -> Page:
    page.goto(f"{site}/twins/model.html")
    return page


def hash_of(page: Page) -> str:
    return page.evaluate("location.hash")


def shown(value: float | str) -> str:
    return "0" if float(value) == 0 else f"{float(value):.2e}"


@pytest.mark.parametrize("file", FILES)
def test_both_columns_are_the_files(file, page, site):
    """Every line, in order: what the page shows can be copied."""
    page.goto(f"{site}/twins/{file}.html")
    for side in ("torch", "flax"):
        source = (ROOT / f"gpt_{side}" / f"{file}.py").read_text()
        lines = page.locator(f".twins .{side} code > span[id]").all_text_contents()
        assert [line.rstrip("\n") for line in lines if line.strip()] == [
            line for line in source.splitlines() if line.strip()
        ]


def test_each_strip_says_what_the_json_says(page, site):
    seen = set()
    for file in FILES:
        page.goto(f"{site}/twins/{file}.html")
        for figure in page.locator("figure.parity").all():
            name = f"{file}.py::{figure.get_attribute('data-function')}"
            rows = [
                f"{kind} {dtype} {' '.join(shown(n[k]) for k in ('torch', 'flax', 'limit'))}"
                for kind in ("output", "gradients")
                for dtype, n in PARITY[name].get(kind, {}).items()
            ]
            found = figure.locator("tbody tr").all()
            assert [" ".join(r.locator("th, td").all_text_contents()) for r in found] == rows
            seen.add(name)
    assert seen == {name for name in PARITY if Path(name.split("::")[0]).stem in FILES}


def test_each_fault_is_shown_as_measured(page, site):
    for fault in FAULTS:
        page.goto(f"{site}/twins/{Path(fault['file']).stem}.html#break-{fault['id']}")
        article = page.locator(f"article#break-{fault['id']}")
        expect(article).to_be_visible()
        expect(article).to_contain_text(fault["caught_by"])
        label = article.locator("svg").first.get_attribute("aria-label")
        assert [f"{shown(d)}." in label for d in fault["layers"]] == [True] * len(fault["layers"])
        lines = page.locator(".broken ins").all_text_contents()
        assert [line.strip() for line in lines] == [
            line.strip() for line in fault["after"].split("\n")
        ]


def test_a_fault_turns_its_line_red_and_mending_restores_it(model):
    fault = IN_MODEL[0]
    before = model.locator(".twins").all_text_contents()
    model.get_by_label("Break it", exact=False).first.select_option(f"break-{fault['id']}")
    broken = model.locator(".broken").first
    expect(broken).to_be_visible()
    expect(broken).to_be_in_viewport()
    assert broken.get_attribute("id").startswith(fault["framework"])
    assert hash_of(model) == f"#break-{fault['id']}"
    model.get_by_role("button", name="Mend it").click()
    expect(model.locator(".broken")).to_have_count(0)
    assert model.locator(".twins").all_text_contents() == before


def test_the_back_button_restores_each_state(model):
    first, second = IN_MODEL[0]["id"], IN_MODEL[1]["id"]
    for state in (f"break-{first}", f"break-{second}", "GPT.hidden"):
        model.evaluate("state => { location.hash = state }", state)
    expect(model.locator(".broken")).to_have_count(0)
    model.go_back()
    expect(model.locator(f"#break-{second}")).to_be_visible()
    model.go_back()
    expect(model.locator(f"#break-{first}")).to_be_visible()
    expect(model.locator(f"#break-{second}")).to_be_hidden()
    model.go_back()
    expect(model.locator(".broken")).to_have_count(0)
    model.go_forward()
    expect(model.locator(f"#break-{first}")).to_be_visible()


def test_each_function_has_a_permalink(model):
    links = model.locator("a.permalink")
    names = [link.get_attribute("href")[1:] for link in links.all()]
    assert {"causal_attention", "CausalSelfAttention.forward", "GPT.head"} <= set(names)
    links.nth(names.index("GPT.head")).click()
    assert hash_of(model) == "#GPT.head"
    expect(model.locator('[id="GPT.head"] h3')).to_be_in_viewport()


def test_the_keyboard_alone(model):
    bolt = model.locator("a.bolt").first
    bolt.focus()
    model.keyboard.press("Enter")
    article = model.locator("article.chosen")
    expect(article).to_be_focused()
    model.keyboard.press("Escape")
    expect(article).to_have_count(0)
    expect(bolt).to_be_focused()


def test_one_column_on_a_phone(model, site):
    model.set_viewport_size({"width": 390, "height": 844})
    line = '[id="GPT.head"] .{} code'
    torch, flax = (model.locator(line.format(side)) for side in ("torch", "flax"))
    expect(torch).to_be_visible()
    expect(flax).to_be_hidden()
    model.get_by_role("button", name="Flax", exact=True).click()
    expect(torch).to_be_hidden()
    expect(flax).to_be_visible()
    model.goto("about:blank")
    model.goto(f"{site}/twins/model.html#GPT.head~flax")
    expect(flax).to_be_visible()
    expect(flax).to_be_in_viewport()
    fault = next(fault for fault in IN_MODEL if fault["framework"] == "torch")
    model.evaluate("state => { location.hash = state }", f"break-{fault['id']}")
    expect(torch).to_be_visible()


@pytest.mark.parametrize("width", [390, 1400])
def test_without_javascript_both_columns_and_all_faults_are_there(width, browser, site):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{site}/twins/model.html")
        for side in ("torch", "flax"):
            for code in page.locator(f".twins .{side}:has(span[id])").all():
                expect(code).to_be_visible()
        for fault in IN_MODEL:
            article = page.locator(f"#break-{fault['id']}")
            expect(article.locator("ins").first).to_be_visible()
            expect(article.locator("svg").first).to_be_visible()
        expect(page.locator(".toolbar")).to_be_hidden()


# A box that sticks out of the box that cuts it off.
CUT_OFF = """() => [...document.querySelectorAll(".gutter > span > span > *")]
  .filter((element) => element.getClientRects().length && element.parentElement.offsetHeight)
  .filter((element) => element.getBoundingClientRect().right
    > element.closest(".gutter").getBoundingClientRect().right + 1)
  .map((element) => element.outerHTML)"""
# Numbers of lines that are broken in two.
BROKEN_NUMBERS = """() => [...document.querySelectorAll(".twins code > span[id]")]
  .filter((line) => parseFloat(getComputedStyle(line, "::before").height) > 20)
  .map((line) => line.id)"""
# Labels of one axis that overlap.
OVERLAPPING = """() => [...document.querySelectorAll(".ticks")].flatMap((ticks) => {
  const boxes = [...ticks.children].map((label) => label.getBoundingClientRect());
  return boxes.filter((box, i) => i && boxes[i - 1].right > box.left).map((box) => box.left);
})"""


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("file", FILES)
def test_marks_and_labels_have_room(file, width, page, site):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{site}/twins/{file}.html")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(BROKEN_NUMBERS) == []
    assert page.evaluate(OVERLAPPING) == []


@pytest.mark.parametrize("file", FILES)
def test_no_empty_box_on_a_phone(file, page, site):
    page.set_viewport_size({"width": 390, "height": 844})
    for side in ("torch", "flax"):
        page.goto(f"{site}/twins/{file}.html#~{side}")
        boxes = page.locator(".twins").evaluate_all("boxes => boxes.map((box) => box.offsetHeight)")
        assert min(height for height in boxes if height) > 10


@pytest.mark.parametrize("width", [390, 1400])
def test_what_is_chosen_stays_in_sight(width, model):
    model.set_viewport_size({"width": width, "height": 844})
    model.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    expect(model.get_by_role("combobox")).to_be_in_viewport()
    side = model.locator(".switch" if width == 390 else ".heads .flax")
    expect(side).to_be_in_viewport()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("file", sorted({Path(fault["file"]).stem for fault in FAULTS}))
def test_a_fault_is_seen_at_once(file, width, page, site):
    """One by a link, the others of the page chosen after it."""
    page.set_viewport_size({"width": width, "height": 844})
    for fault in FAULTS:
        if Path(fault["file"]).stem == file:
            page.goto(f"{site}/twins/{file}.html#break-{fault['id']}")
            page.add_style_tag(content="html { scroll-behavior: auto !important }")
            assert_in_sight(page, f"#break-{fault['id']}.chosen", width)


def assert_in_sight(page: Page, account: str, width: int) -> None:
    """The line as it was and as it is, below what covers the page's top, and what came of it.

    In a long function on a narrow screen the line is in the account of the fault.
    """
    for what in ("h3", ".outcome"):
        expect(page.locator(f"{account} {what}")).to_be_in_viewport(ratio=1)
    bar = page.locator(".bar").bounding_box()
    line, article = (page.locator(what).bounding_box() for what in (".broken", account))
    assert max(line["y"], article["y"] if width == 390 else 0) >= bar["y"] + bar["height"]
    changed = page.locator(f"{account} .change" if width == 390 else ".broken")
    expect(changed).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("width", [390, 1400])
def test_a_changed_line_is_shown_once_with_its_signs(width, model):
    model.set_viewport_size({"width": width, "height": 844})
    model.evaluate("location.hash = 'break-head-order'")
    places = [".twins .broken", ".chosen .change"]
    hidden, shown = places if width == 390 else reversed(places)
    expect(model.locator(f"{hidden} > ins")).to_be_hidden()
    for name, sign in (("del", "- "), ("ins", "+ ")):
        line = model.locator(f"{shown} > {name}")
        expect(line).to_be_visible()
        assert line.evaluate("e => getComputedStyle(e, '::before').content") == f'"{sign}"'


def test_the_link_to_the_line_of_a_fault(model, site):
    model.evaluate("location.hash = 'break-head-order'")
    link = model.locator(".chosen a.line")
    line = model.locator(link.get_attribute("href"))
    assert line.get_attribute("class") == "broken"
    link.click()
    expect(line).to_be_in_viewport(ratio=1)
    expect(line.locator("ins")).to_be_visible()
    model.set_viewport_size({"width": 390, "height": 844})
    model.goto(f"{site}/twins/model.html#flax-30")
    expect(model.locator("#flax-30")).to_be_in_viewport()


# Lines with a mark that do not wrap, or without a mark that do.
WRONG_MARKS = """() => [...document.querySelectorAll(".twins code > span[id]")].filter((line) => {
  const range = document.createRange();
  range.selectNodeContents(line);
  const tops = [...range.getClientRects()].filter((box) => box.width).map((box) => box.top);
  const isMarked = parseFloat(getComputedStyle(line, "::after").height) > 2;
  return tops.length && Math.max(...tops) - Math.min(...tops) > 9 !== isMarked;
}).map((line) => line.id)"""


@pytest.mark.parametrize("width", [390, 1400])
def test_a_line_that_wraps_is_marked(width, model):
    model.set_viewport_size({"width": width, "height": 844})
    assert model.evaluate(WRONG_MARKS) == []


# Words in the colour of lines that are the same, in other lines; and such lines in another colour.
WRONG_GREY = """() => {
  const color = (element) => getComputedStyle(element).color;
  const grey = color(document.querySelector(".legend .same"));
  return [...document.querySelectorAll(".twins code > span[id], .twins code > span[id] i")]
    .filter((element) => (color(element) === grey) !== !!element.closest(".same"))
    .map((element) => element.outerHTML);
}"""


def test_grey_is_what_is_the_same(model):
    assert model.evaluate(WRONG_GREY) == []


# Marks of a chart that are within one drawn later.
HIDDEN_MARKS = """() => [...document.querySelectorAll(".strip .plot > svg")].flatMap((chart) => {
  const boxes = [...chart.querySelectorAll("circle, rect, line.limit")]
    .map((mark) => mark.getBoundingClientRect());
  return boxes.filter((box, i) => boxes.slice(i + 1).some((later) => box.left >= later.left
    && box.right <= later.right && box.top >= later.top && box.bottom <= later.bottom));
})"""


def test_no_mark_hides_another(page, site):
    for file in FILES:
        page.goto(f"{site}/twins/{file}.html")
        page.add_style_tag(content=".break { display: block !important }")
        assert page.evaluate(HIDDEN_MARKS) == []


@pytest.mark.parametrize("width", [390, 1400])
def test_a_bolt_is_large_enough_and_names_its_fault(width, model):
    model.set_viewport_size({"width": width, "height": 844})
    for bolt in model.locator(".gutter a.bolt:visible").all():
        box = bolt.bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert bolt.get_attribute("title") == bolt.get_attribute("aria-label") != ""


@pytest.mark.parametrize("file", FILES)
def test_each_chart_has_its_legend_above_it(file, page, site):
    page.goto(f"{site}/twins/{file}.html")
    for figure in page.locator("figure:has(svg)").all():
        caption = figure.locator("figcaption").text_content()
        assert "■ Flax" in caption or "with the fault" in caption or "without the fault" in caption


@pytest.mark.parametrize("width", [390, 1400])
def test_a_permalink_leads_below_what_stays_in_sight(width, model):
    model.set_viewport_size({"width": width, "height": 844})
    model.add_style_tag(content="html { scroll-behavior: auto !important }")
    model.evaluate("location.hash = 'linear'")
    heading = model.locator('[id="linear"] h2')
    expect(heading).to_be_in_viewport()
    bar = model.locator(".bar").bounding_box()
    assert heading.bounding_box()["y"] >= bar["y"] + bar["height"]
