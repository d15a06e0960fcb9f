"""The report in a browser: it draws, sorts, moves and speaks; it asks the network for nothing; it reads without scripts."""

import shutil

import pytest

from ipjax.report import build, compare
from tests import report_records as made

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # containers run tests as root
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build(made.run()))
    return path.as_uri()


@pytest.fixture
def opened(browser, file):
    """The page with what it complained of and asked for."""
    page = browser.new_page()
    heard, asked = [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file)
    yield page
    assert heard == []
    assert asked == [file]
    page.close()


def test_every_chart_is_drawn(opened):
    places = opened.locator("[data-charts]")
    assert places.count() == 7
    assert all(places.nth(i).locator("svg .point").count() > 2 for i in range(7))
    assert opened.locator("#planes [data-charts=planes] svg").count() == 3


def column(page, table, index):
    return page.locator(f"#table-{table} tbody tr:visible td:nth-child({index + 1})").all_inner_texts()


def test_headings_sort_both_ways_and_say_so(opened):
    headings = opened.locator("#table-layers th").all_inner_texts()
    index = next(i for i, text in enumerate(headings) if text.startswith("I(C; Y)"))
    button = opened.locator("#table-layers th button").nth(index)
    before = [float(text.split()[0]) for text in column(opened, "layers", index)]
    button.focus()
    opened.keyboard.press("Enter")
    down = [float(text.split()[0]) for text in column(opened, "layers", index)]
    assert down == sorted(before, reverse=True) != before
    assert opened.locator("#table-layers th").nth(index).get_attribute("aria-sort") == "descending"
    button.click()
    assert [float(text.split()[0]) for text in column(opened, "layers", index)] == sorted(before)
    assert opened.locator("#table-layers th[aria-sort]").count() == 1


def test_values_that_are_missing_sort_last(opened):
    opened.locator("[data-filters=layers]").select_option("conductance to a fixed contrast")
    index = next(i for i, t in enumerate(opened.locator("#table-layers th").all_inner_texts()) if t.startswith("ITE"))
    for _ in range(2):
        opened.locator("#table-layers th button").nth(index).click()
        assert column(opened, "layers", index)[-1] == "–"


def test_the_selector_shows_one_representation(opened):
    assert set(column(opened, "layers", 1)) == {"activation"}
    second = opened.locator("#table-layers th").nth(1)
    assert second.is_hidden()
    opened.locator("[data-filters=layers]").select_option("")
    assert len(column(opened, "layers", 1)) == 18 and second.is_visible()


def places_of_points(page):
    return page.locator("[data-charts=planes] .dot").evaluate_all(
        "dots => dots.map(d => [d.getAttribute('cx'), d.getAttribute('cy')])"
    )


def test_the_slider_moves_the_points_by_keyboard_and_says_the_level(opened):
    planes = opened.locator("[data-charts=planes]")
    assert "noise 0.1, this run’s own" in planes.inner_text()
    own = places_of_points(opened)
    assert planes.locator(".interval").count() > 0
    slider = opened.get_by_role("slider", name="noise level")
    slider.focus()
    opened.keyboard.press("ArrowRight")
    assert "noise 0.3, without intervals" in planes.inner_text()
    assert slider.get_attribute("aria-valuetext") == "noise 0.3"
    assert places_of_points(opened) != own and planes.locator(".interval").count() == 0
    opened.keyboard.press("ArrowLeft")
    assert places_of_points(opened) == own


def test_saturated_layers_are_hollow(opened):
    assert opened.locator("[data-charts=planes] .hollow").count() == 1
    opened.get_by_role("slider", name="noise level").fill("0")
    assert opened.locator("[data-charts=planes] .hollow").count() == 18


def test_points_tell_their_numbers_to_pointer_and_keyboard(opened):
    tip = opened.locator("#tip")
    panel = opened.locator("[data-charts=planes] svg").nth(1)
    panel.locator(".point").first.focus()
    assert tip.is_visible() and tip.inner_text().startswith("input\nabout the label 0.72 bits [")
    opened.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("maxpool") and "marks: saturated, ITE withheld" in tip.inner_text()
    assert panel.locator(".point[tabindex='0']").count() == 1
    opened.keyboard.press("Escape")
    assert tip.is_hidden()
    panel.locator(".point .dot").last.hover()
    assert tip.is_visible() and tip.inner_text().startswith("avgpool")


def test_a_layer_s_curves_can_be_chosen(opened):
    curves = opened.locator("[data-charts=curves]")
    chosen = curves.locator("select option:checked")
    assert chosen.inner_text() == "layer3.0"
    before = curves.locator("figure .point").evaluate_all("points => points.map(p => p.getAttribute('aria-label'))")
    curves.locator("select").select_option("layer2.0")
    after = curves.locator("figure .point").evaluate_all("points => points.map(p => p.getAttribute('aria-label'))")
    assert chosen.inner_text() == "layer2.0" and len(before) == len(after) == 2 * 5 * 6
    assert curves.locator("figcaption").all_inner_texts()[0] == "Deletion: the first channels removed"


def paper(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_follows_the_system_and_the_toggle(opened):
    light = paper(opened)
    opened.emulate_media(color_scheme="dark")
    dark = paper(opened)
    assert dark != light and opened.locator("#theme").inner_text() == "light"
    opened.locator("#theme").click()
    assert paper(opened) == light and opened.locator("#theme").inner_text() == "dark"


def test_print_opens_everything_and_drops_the_controls(opened):
    opened.locator("#theme").click()
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator(".bar").is_hidden() and opened.locator("input[type=range]").is_hidden()
    assert opened.locator("details:not([open])").count() == 0
    assert opened.locator("#table-layers tbody tr:visible").count() == 18
    assert paper(opened) == "rgb(255, 255, 255)"
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator(".how[open]").count() == 0
    assert opened.pdf().startswith(b"%PDF")


def test_nothing_is_wider_than_a_telephone(opened):
    opened.set_viewport_size({"width": 400, "height": 800})
    opened.wait_for_function("document.querySelector('[data-charts=planes] svg').viewBox.baseVal.width < 400")
    assert opened.evaluate("document.documentElement.scrollWidth") == 400


def test_summary_and_tables_read_without_scripts(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file)
    assert page.get_by_text("Label information in the activations rises").is_visible()
    assert page.locator("#table-layers tbody tr:visible").count() == 18
    assert page.locator("#theme").is_hidden() and page.locator("select:visible").count() == 0
    assert page.get_by_text("The charts need JavaScript").first.is_visible()
    context.close()


def test_a_comparison_draws_a_line_a_run(browser, tmp_path):
    path = tmp_path / "compare.html"
    path.write_text(compare([made.run("first"), made.run("second", config=made.CONFIG | {"noise": 0.3})]))
    page = browser.new_page()
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(path.as_uri())
    assert page.locator("[data-charts=planes] svg path.path").count() == 6
    assert page.get_by_text("The runs differ in noise").is_visible()
    assert heard == []
    page.close()
