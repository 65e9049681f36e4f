"""Charts in a browser, on a small book of made-up records: what a reader sees and can do."""

import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from lib.book import charts
from lib.records.provenance import ROOT

DRAWN = """() => [...document.querySelectorAll("figure.chart")].every(
    (figure) => figure.querySelector(":scope > .live svg"))"""
NAMES = ["none", "classic", "mixup"]


def figures():
    """Two studies, of which one lacks an augmentation; shares that leave no room; a scatter."""
    cells = [("none", 0.0), *((name, p) for name in NAMES[1:] for p in (0.5, 1.0))]
    rows = [
        {"augmentation": name, "p": p, "seed": seed, "value": 0.02 + p / 9 + 0.02 * seed,
         "eps": 0.5, "other": p + seed}
        for name, p in cells for seed in range(3)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    panels = pd.concat([table.assign(eps=eps, value=table.value * eps) for eps in (0.5, 1)])
    return [
        charts.against_p(table, y="risk", format=".1%", description="Risk against p"),
        charts.against_p(panels, y="risk", facet="eps", format=".1%", description="By eps"),
        charts.against(panels[panels.p.isin([0, 1])], "eps", y="risk", description="Against eps"),
        charts.scatter(table, x="other", y="value", description="A dot for each network"),
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The website of a book with one chapter, which shows `figures` and a table."""
    root = tmp_path_factory.mktemp("book")
    (root / "runs").mkdir()
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    for name in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text("format: jb-book\nroot: notebooks/one\n")
    table = charts.table(pd.DataFrame({"a": [1]}), caption="A table")
    shown = [one._repr_mimebundle_() for one in [*figures(), table]]
    cells = [nbformat.v4.new_markdown_cell("# One\n\nProse.")]
    cells += [
        nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("display_data", one)])
        for one in shown
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(made, root / "runs" / "one.ipynb")
    code = (
        "import sys; from pathlib import Path; from lib.book import build as book\n"
        "root = Path(sys.argv[1]); book.build(root / 'runs', root / 'out', root=root)"
    )
    subprocess.run([sys.executable, "-c", code, root], cwd=ROOT, check=True)
    return root / "out" / "html"


@pytest.fixture
def page(browser, serve, built, request):
    context = browser.new_context(
        viewport={"width": getattr(request, "param", 1200), "height": 900}
    )
    page = context.new_page()
    with serve(built) as url:
        page.goto(f"{url}notebooks/one.html")
        page.wait_for_load_state("networkidle")
        page.wait_for_function(DRAWN)
        page.wait_for_timeout(500)  # a page that has just found its theme draws again
        yield page
    context.close()


def opacities(figure):
    """{name: the opacities of its marks}, told apart by colour; and the labels of the axes."""
    return figure.evaluate("""(figure) => {
        const found = {};
        for (const mark of figure.querySelectorAll(".live .role-mark path")) {
            const style = getComputedStyle(mark), line = style.fill === "none";
            const colour = line ? style.stroke : style.fill;
            (found[colour] ??= new Set()).add(+mark.getAttribute("opacity") || 1);
        }
        const labels = figure.querySelectorAll(".live .role-axis-label text");
        return [Object.fromEntries(Object.entries(found).map(([k, v]) => [k, [...v]])),
                [...labels].map((label) => label.textContent)];
    }""")


def rgb(name):
    colour = charts.colours([name])[name]
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_a_caption_stays_below_its_chart(page):
    for figure in page.locator("figure.chart").all():
        chart, caption = figure.locator(".live"), figure.locator("figcaption")
        assert chart.bounding_box()["y"] < caption.bounding_box()["y"]
    page.evaluate("document.documentElement.dataset.theme = 'dark'")  # drawn again
    page.wait_for_timeout(1000)
    for figure in page.locator("figure.chart").all():
        below = figure.locator(".live + figcaption")
        assert below.count() == 1


def test_no_text_is_thin(page):
    thin = page.evaluate("""() => [...document.querySelectorAll("body *")].filter((one) =>
        [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) &&
        getComputedStyle(one).fontWeight < 400).map((one) => one.outerHTML)""")
    assert not thin


def bring_back(page, figure, way):
    if way == "double click":
        figure.locator(".live .role-legend-label text").last.dblclick()
    elif way == "click away":
        page.locator("main section h1").click()
    else:
        box = figure.locator(".live svg").bounding_box()
        page.mouse.click(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5)


@pytest.mark.parametrize("way", ["double click", "click beside", "click away"])
def test_the_legend_fades_and_brings_back(page, way):
    """All axes stay, and so does what one compares with."""
    for figure in page.locator("figure.chart").all():
        before = opacities(figure)
        entries = figure.locator(".live .role-legend-label text")
        assert set(entries.all_text_contents()) == set(NAMES)
        for _ in range(2):
            entries.filter(has_text="classic").click()
            page.wait_for_timeout(200)
            shown, labels = opacities(figure)
            assert labels == before[1]
            assert set(shown) == set(before[0])
            for name in ("none", "classic"):
                assert shown[rgb(name)] == before[0][rgb(name)], name
            assert max(shown[rgb("mixup")]) < 0.2
            bring_back(page, figure, way)
            page.wait_for_timeout(200)
            assert opacities(figure) == before


@pytest.mark.parametrize("page", [1200, 360], indirect=True)
def test_nothing_sticks_out(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for figure in page.locator("figure.chart").element_handles():
        assert figure.evaluate("(one) => one.scrollWidth <= one.clientWidth")
