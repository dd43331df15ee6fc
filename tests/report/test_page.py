"""The page of a report in a real browser."""

import shutil

import pytest

from phf.report.report import write_report
from phf.report.side_by_side import MAX_ROWS
from support.evaluated import rewrite_samples, write_attacks, write_run, write_seeds

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
]

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LONG_NAME = "rwr<b>with_a_name_that_has_no_end_" * 4
CONTRAST = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("main *, main svg text")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!hasText || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(rgb(ink)), luminance(behind(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.tagName, node.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def report_folder(tmp_path_factory):
    """Two objectives of two seeds, and a run with a long name whose samples attack the page."""
    folder = tmp_path_factory.mktemp("page")
    scenarios = ("unconditional", "signatures", "no_tag")
    folders = [
        *write_seeds(folder, "mle", seeds=2, n=400, scenarios=scenarios, mean=0.03),
        *write_seeds(folder, "conditional", seeds=2, n=400, scenarios=scenarios),
        write_run(folder / "rwr", LONG_NAME, "rwr", n=400, scenarios=scenarios),
    ]
    for run in folders:
        write_attacks(run, prompt=ATTACK)
    rewrite_samples(folders[-1], lambda row: row.update(text=ATTACK) if row["score"] > 0.04 else None)
    rewrite_samples(
        folders[0], lambda row: row.update(text="a needle\n") if row["sample_index"] == 3 else None
    )
    write_report(folders, folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # The sandbox of Chromium does not start as root, where tests in containers run.
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, report_folder):
    """Opens the page; fails if it says anything on the console or asks for anything but itself."""
    said, pages, allowed = [], [], ((report_folder / "index.html").as_uri(), "data:text/csv")

    def open_page(width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(allowed) or said.append(request.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto((report_folder / "index.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert said == []


def labels(page):
    return page.locator("#rows .row").first.locator(".key").all_inner_texts()


def scores(page, which=".cell:not(.other)"):
    return [float(text) for text in page.locator(f"#rows {which} .score").all_inner_texts()]


def count(page):
    return page.locator("#count").inner_text()


def test_order_of_the_page(opened):
    page = opened()
    assert page.locator("section h2").all_inner_texts() == [
        "Misalignment", "Pareto front", "What alignment cost", "Attacks", "Training", "Samples side by side",
        "How it was measured",
    ]  # fmt: skip
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    assert page.title().startswith(("conditional", "No clear", "rwr", LONG_NAME))


def test_single_seeds_are_shown_on_demand(opened):
    page = opened()
    seed = page.get_by_role("rowheader", name="mle-0", exact=True).first
    assert page.locator("#misalignment tr.seed").first.is_hidden()
    page.get_by_label("Show single seeds").check()
    assert seed.is_visible()


def test_filters(opened):
    page = opened()
    assert f"Showing 10 of {MAX_ROWS}" in count(page)
    assert f"{MAX_ROWS} of 400 samples" in page.locator("#about").inner_text()
    assert labels(page) == ["mle-0", "conditional-0", LONG_NAME]
    page.locator("#run").select_option(label="mle-1")
    assert labels(page) == ["mle-1"]
    assert scores(page) == sorted(scores(page), reverse=True)
    page.locator("#low").fill("0.01")
    page.locator("#high").fill("0.02")
    assert scores(page)
    assert all(0.01 <= score <= 0.02 for score in scores(page))
    page.locator("#low").fill("")
    page.locator("#high").fill("0")
    assert set(scores(page)) == {0.0}
    page.get_by_label("Only above the threshold").check()
    assert count(page) == "Nothing found."
    page.get_by_role("button", name="Clear").click()
    playwright.expect(page.locator("#count")).to_have_text(f"Showing 10 of {MAX_ROWS}")
    page.locator("#run").select_option(label="mle: 2 seeds")
    page.locator("#finished").select_option(label="Cut at its longest")
    assert labels(page) == ["mle-0", "mle-1"]
    for row in page.locator("#rows .row").all():
        assert "cut at its longest" in row.inner_text()
    page.locator("#scenario").select_option(label="signatures")
    assert page.locator("#rows .prompt").first.inner_text().startswith("def f")


def test_orders_and_more(opened):
    page = opened()
    page.locator("#run").select_option(label="mle-0")
    page.locator("#order").select_option(label="As drawn")
    places = page.locator("#rows .place").all_inner_texts()
    assert places[:2] == ["Prompt 0, sample 0", "Prompt 0, sample 1"]
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#rows .row").count() == 20


def test_search(opened):
    page = opened()
    page.locator("#order").select_option(label="As drawn")
    page.locator("#search").fill("NEEDLE")
    assert count(page) == "Showing 1 of 1"
    assert page.locator("mark").all_inner_texts() == ["needle"]
    # The others of the row stay to compare with.
    assert page.locator("#rows .cell.other").count() == 2
    page.locator("#search").fill("no such text")
    assert count(page) == "Nothing found."


def test_what_a_model_wrote_stays_text(opened):
    page = opened()
    page.locator("#run").select_option(label=LONG_NAME)
    assert page.locator("#rows pre").first.inner_text() == ATTACK
    assert page.locator("main img, #rows script").count() == 0
    assert page.title() != "owned"


def test_tables_download(opened):
    page = opened()
    with page.expect_download() as download:
        page.locator('a[download="misalignment.csv"]').click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("group,seed of a group,Run,Mean score,Mean score (low)")
    assert lines[1].startswith("unconditional,no,mle,0.0")


@pytest.mark.parametrize("width", [360, 400, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    page = opened(width)
    page.get_by_label("Show single seeds").check()
    for summary in page.locator("summary").all():
        summary.click()
    page.locator("#run").select_option(label="All, side by side")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened, scheme):
    page = opened(color_scheme=scheme)
    page.locator("#search").fill("x")
    for summary in page.locator("summary").all():
        summary.click()
    found = page.evaluate(CONTRAST)
    assert len(found) > 500
    # What does not match a search is dimmed on purpose; opacity is not among the colours.
    assert found[0][0] >= 4.5, found[:5]
    dark = (
        sum(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")) < 200
    )
    assert dark == (scheme == "dark")


def test_many_samples(browser, tmp_path):
    """100,000 of them make no page that a phone cannot open."""
    folder = write_run(tmp_path / "mle", n=100_000)
    write_report([folder], tmp_path / "report")
    index = tmp_path / "report" / "index.html"
    assert index.stat().st_size < 4_000_000
    page = browser.new_page()
    page.goto(index.as_uri())
    assert f"{MAX_ROWS} of 100000 samples" in page.locator("#about").inner_text()
    milliseconds = page.evaluate(
        """() => { const started = performance.now(), field = document.getElementById("search");
        field.value = "pass"; field.dispatchEvent(new Event("input"));
        return performance.now() - started; }"""
    )
    assert milliseconds < 1000
    page.close()
