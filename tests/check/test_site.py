"""The website as `make book` left it, in a browser: nothing broken, foreign or cut off."""

import re
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from lib.book.slides import SUFFIX
from lib.records.provenance import ROOT

HTML = ROOT / "_build" / "html"
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if "_static" not in path.parts and path.name != "index.html"
)
DECKS = [name for name in PAGES if name.endswith(SUFFIX)]
PAGES = [name for name in PAGES if name not in DECKS]
CHARTED = [name for name in PAGES if '<figure class="chart"' in (HTML / name).read_text()]
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 900}
DRAWN = """() => [...document.querySelectorAll("figure.chart:has(> script)")].every(
    (figure) => figure.querySelector(":scope > .live svg"))"""
every_page = pytest.mark.parametrize("name", PAGES)


def test_the_website_is_built():
    assert (HTML / "index.html").exists(), f"{HTML} holds no website: run `make book` first"
    assert PAGES


@pytest.fixture(scope="session")
def site(serve):
    with serve(HTML) as url:
        yield url


@pytest.fixture
def visit(browser, site):
    """`visit(name, size, theme)` opens a page; what goes wrong on it fails the test at its end."""
    contexts, wrong = [], []

    def foreign(route):
        wrong.append(f"request to another host: {route.request.url}")
        route.abort()

    def visit(name, size=DESK, theme="light"):
        context = browser.new_context(viewport=size, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.route(lambda url: not url.startswith((site, "data:", "blob:")), foreign)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("response", lambda r: r.ok or wrong.append(f"{r.status}: {r.url}"))
        page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
        page.goto(site + name)
        page.wait_for_load_state("networkidle")
        page.wait_for_function(DRAWN)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


def link_targets(page):
    return page.eval_on_selector_all("a[href]", "all => all.map((a) => a.href)")


@every_page
def test_page_is_whole(visit, site, name):
    page = visit(name)
    assert page.title()
    assert page.locator("main h1:visible").count() == 1

    for image in page.locator("main img").element_handles():
        assert (image.get_attribute("alt") or "").strip(), "an image without alternative text"
        assert image.evaluate("(i) => i.complete && i.naturalWidth > 0"), "an image does not load"

    for link in link_targets(page):
        if not link.startswith(site):
            assert urlsplit(link).scheme in ("http", "https", "mailto"), link
            continue
        target, anchor = urldefrag(unquote(urljoin(site + name, link)))
        path = HTML / urlsplit(target.removeprefix(site)).path
        assert path.exists(), f"broken link: {link}"
        if anchor and path.suffix == ".html":
            assert re.search(rf'\bid="{re.escape(anchor)}"', path.read_text()), f"no such: {link}"

    for formula in page.locator("main .math").element_handles():
        assert formula.query_selector("mjx-container"), formula.inner_text()
    assert page.locator("mjx-merror").count() == 0


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_fits_a_phone(visit, name, theme):
    page = visit(name, PHONE, theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for figure in page.locator("figure.chart").element_handles():
        assert figure.evaluate("(f) => f.scrollWidth <= f.clientWidth"), "a chart is cut off"


def contrast(one, other):
    """WCAG contrast of two CSS colours `rgb(r, g, b)`."""

    def luminance(colour):
        channels = [float(c) / 255 for c in re.findall(r"[\d.]+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colours_of_text(page):
    """For each chart the colours of its text and of what lies behind it."""
    return page.evaluate("""() => [...document.querySelectorAll("figure.chart")].map((figure) => {
        let behind = figure, colour;
        do {
            colour = getComputedStyle(behind).backgroundColor;
            behind = behind.parentElement;
        } while (behind && /rgba\\(.*, 0\\)/.test(colour));
        const texts = [...figure.querySelectorAll(".live svg text")];
        return [texts.map((text) => getComputedStyle(text).fill), colour];
    })""")


@every_page
def test_charts_follow_the_theme(visit, name):
    page = visit(name)
    if not page.locator("figure.chart").count():
        assert page.evaluate("window.vegaEmbed === undefined"), "loaded where nothing is drawn"
        return
    first = colours_of_text(page)
    page.evaluate("document.querySelectorAll('.live').forEach((live) => (live.dataset.old = '1'))")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function("() => !document.querySelector('.live[data-old]')")
    page.wait_for_function(DRAWN)
    second = colours_of_text(page)
    assert len(first) == len(second)
    assert first != second
    for texts, behind in first + second:
        assert texts
        for text in texts:
            assert contrast(text, behind) >= 4.5


@pytest.mark.parametrize("name", CHARTED)
def test_charts_answer_the_pointer(visit, name):
    """Hovering shows numbers; a click on the legend hides nothing."""
    page = visit(name)
    for figure in page.locator("figure.chart > .live").all():
        points = figure.locator(".mark-symbol.role-mark path")
        if points.count():
            points.last.hover()
            page.wait_for_selector("#vg-tooltip-element.visible td.value")
        entries = figure.locator(".role-legend-symbol path")
        if entries.count() > 1:
            before = figure.locator(".role-mark path, .role-axis-label text").count()
            entries.first.click(force=True)  # not every legend is one to click
            page.wait_for_timeout(100)
            assert figure.locator(".role-mark path, .role-axis-label text").count() == before


def test_a_chart_stays_without_its_library(browser, site):
    """The static picture is shown, also in the dark, if the library cannot be loaded."""
    assert CHARTED, "the book has no chart"
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    page.route("**/vega.js", lambda route: route.abort())
    page.goto(site + CHARTED[0])
    page.wait_for_load_state("networkidle")
    still = page.locator("figure.chart > svg").first
    assert still.is_visible()
    assert still.bounding_box()["width"] <= PHONE["width"]
    page.close()


def test_every_chapter_has_slides():
    chapters = {name for name in PAGES if name.startswith("notebooks/")}
    assert {name.replace(SUFFIX, ".html") for name in DECKS} == chapters


@pytest.mark.parametrize("name", DECKS)
def test_slides_are_whole(visit, site, name):
    """Nothing is cut off, but for tables and code, which scroll; formulas are set, links live."""
    page = visit(name)
    slides = page.evaluate("Reveal.getTotalSlides()")
    assert slides > 5
    seen = set()
    for _ in range(slides):
        seen.add(page.evaluate("JSON.stringify(Reveal.getIndices())"))
        assert page.locator(".slides section.present:not(.stack)").count() == 1
        cut = page.evaluate("""() => {
            const slide = Reveal.getCurrentSlide(), body = slide.querySelector(".body");
            const scrolls = !body.querySelector(".chart, .pictures");
            const over = body.scrollHeight - body.clientHeight;
            return [slide.scrollWidth > 1280, slide.scrollHeight > 720, over > 1 && !scrolls];
        }""")
        assert not any(cut), (page.evaluate("location.hash"), cut)
        page.evaluate("Reveal.next()")
    assert len(seen) == slides
    for formula in page.locator("section .math").element_handles():
        assert formula.query_selector("mjx-container"), formula.inner_html()
    own = [link for link in link_targets(page) if link.startswith(site)]
    for link in own:
        path = HTML / unquote(urlsplit(link).path).lstrip("/")
        assert path.exists(), f"broken link: {link}"


def test_the_speaker_sees_the_prose(visit):
    page = visit(f"notebooks/03_performance{SUFFIX}")
    with page.expect_popup() as window:
        page.keyboard.press("s")
    window.value.wait_for_function(
        "document.querySelector('.speaker-controls-notes')?.innerText.length > 20"
    )


def test_slides_print_as_a_page_each(visit):
    page = visit(f"notebooks/03_performance{SUFFIX}?print-pdf")
    page.wait_for_selector(".pdf-page")
    assert page.locator(".pdf-page").count() >= page.evaluate("Reveal.getTotalSlides()") > 5
