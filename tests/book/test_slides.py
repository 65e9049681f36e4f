"""Slides: everything a page shows is shown once, in order; everything it says is a note."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from lib.book import charts
from lib.book.slides import ABOVE, ROOM, SUFFIX, build, deck, outline

CODE = '<div class="cell_input"><div class="highlight-ipython3"><pre>{}</pre></div></div>'
FOLDED = f'<details class="hide above-input"><summary>more</summary>{CODE}</details>'
TABLE = '<div class="output text_html"><table><tr><td>{}</td></tr></table></div>'
WORDS = "<p>{}</p>"


def cell(*parts):
    code, *outputs = parts
    return f'<div class="cell">{code}<div class="cell_output">{"".join(outputs)}</div></div>'


def page(*sections, title="One"):
    """A page as the website has them: nested sections, the first paragraph under its title."""
    body = "".join(sections)
    return BeautifulSoup(
        f"<html><head><title>{title}</title></head><body><article><section id='one'><h1>{title}"
        f"<a class='headerlink' href='#one'>#</a></h1>{body}</section></article></body></html>",
        "html.parser",
    )


def section(heading, *parts, level=2):
    return f"<section id='s'><h{level}>{heading}</h{level}>{''.join(parts)}</section>"


def texts(elements):
    return [element.get_text() for element in elements]


def all_slides(found):
    return [slide for column in outline(found, "one.html") for slide in column]


def test_sections_are_columns_and_what_belongs_to_one_goes_down():
    columns = outline(page(
        WORDS.format("What is it?"),
        section("First", "<div class='math'>a = b</div>", section("Deeper", level=3)),
        section("Second"),
    ))  # fmt: skip
    headings = [[slide.heading.get_text() for slide in column] for column in columns]
    assert headings == [["One"], ["First", "Deeper"], ["Second"]]
    assert texts(columns[0][0].shown) == ["What is it?"]
    assert texts(columns[1][0].shown) == ["a = b"]


def test_a_large_thing_ends_a_slide_and_the_prose_before_it_goes_along():
    code, folded = CODE.format("draw()"), FOLDED.format("hidden()")
    _, first, second, third = all_slides(page(
        section("Two", WORDS.format("Look:"), cell(code, TABLE.format("1")),
                WORDS.format("And now:"), cell(folded, TABLE.format("2")), WORDS.format("So.")),
    ))  # fmt: skip
    assert [texts(slide.shown) for slide in (first, second, third)] == [["draw()"], ["1"], ["2"]]
    assert [slide.heading.get_text() for slide in (first, second, third)] == ["Two"] * 3
    assert texts(first.before) == ["Look:"]
    assert texts([*second.before, *second.after]) == []
    assert (texts(third.before), texts(third.after)) == (["And now:"], ["So."])


def test_words_in_bold_that_begin_a_paragraph_are_shown():
    _, slide = all_slides(page(section("Limits", "<p><strong>Scale.</strong> Small.</p>")))
    assert texts(slide.shown) == ["Scale."]
    assert texts(slide.before) == ["Scale. Small."]


def test_text_that_is_long_goes_to_a_slide_of_its_own():
    items = "".join(f"<li>{i}</li>" for i in range(ABOVE + 1))
    table = cell(FOLDED.format("folded"), TABLE.format("1"))
    _, above, below = all_slides(page(section("Two", f"<ul>{items}</ul>", table)))
    assert (above.large, below.large) == (False, True)
    one = "<ul><li>1</li></ul>"
    _, together = all_slides(page(section("Two", one, table)))
    assert together.large
    many = all_slides(page(section("Two", *[one] * (ROOM + 1))))[1:]
    assert [len(slide.shown) for slide in many] == [ROOM, 1]


def test_what_would_break_on_a_slide_is_left_out():
    svg = "<svg><clipPath id='clip'></clipPath><g clip-path='url(#clip)'></g></svg>"
    figure = f"<figure class='chart'><script type='application/json'>{{}}</script>{svg}</figure>"
    found = page(section(
        "Two", "<p>See <a href='#s'>above</a>.</p>", cell(CODE.format("import torch")),
        cell(FOLDED.format(""), f'<div class="output text_html">{figure}</div>'),
    ))  # fmt: skip
    html = deck(str(found), "one.html")
    assert 'href="one.html#s"' in html
    assert 'id="clip"' in html  # a picture's own marks stay
    assert 'id="s"' not in html
    assert "application/json" not in html
    assert "import torch" not in html
    assert "#</h1>" not in html


def test_a_chart_of_several_panels_is_drawn_in_one_line():
    rows = [
        {"augmentation": "classic", "p": p, "seed": 0, "value": p, "panel": panel}
        for p in (0.5, 1.0) for panel in "abcd"
    ]  # fmt: skip
    figure = charts.against_p(pd.DataFrame(rows), y="risk", facet="panel", description="Risk")
    html = figure._repr_mimebundle_()["text/html"]
    before = BeautifulSoup(html, "html.parser").svg
    output = f'<div class="output text_html">{html}</div>'
    _, slide = all_slides(page(section("Two", cell(FOLDED.format(""), output))))
    after = slide.shown[0].find("svg")
    assert float(after["width"]) > 1.5 * float(before["width"])
    assert float(after["height"]) < float(before["height"])
    assert after.get_text().endswith("abcdclassic")  # the panels and the legend
    marks = [{one["id"] for one in svg.select("[id]")} for svg in (before, after)]
    assert marks[0].isdisjoint(marks[1])


BLOCKS = {
    "prose": lambda n: WORDS.format(f"[{n}]"),
    "formula": lambda n: f"<div class='math'>[{n}]</div>",
    "list": lambda n: f"<ul><li>[{n}]</li></ul>",
    "definition": lambda n: f"<div class='proof admonition'><section><p>[{n}]</p></section></div>",
    "code": lambda n: cell(CODE.format(f"[{n}]")),
    "output": lambda n: cell(FOLDED.format("folded"), TABLE.format(f"[{n}]")),
    "words": lambda n: cell(FOLDED.format("folded"), WORDS.format(f"[{n}]")),
    "table": lambda n: f"<table><tr><td>[{n}]</td></tr></table>",
    "section": lambda n: f"<section><h3>[{n}]</h3></section>",
}


@given(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=30))
def test_nothing_is_lost_or_shown_twice(kinds):
    parts = [BLOCKS[kind](n) for n, kind in enumerate(kinds)]
    slides = all_slides(page(WORDS.format("[question]"), section("Two", *parts)))
    shown, said = [], []
    for slide in slides:
        if slide.heading.get_text() not in ("One", "Two"):
            shown.append(slide.heading.get_text())
        shown += texts(slide.shown)
        said += texts([*slide.before, *slide.after])
        assert slide.lines <= ROOM
        assert not any(element.find("section") for element in slide.shown)
    shown = list(dict.fromkeys(shown))  # a heading stands on each of its slides
    prose = [f"[{n}]" for n, kind in enumerate(kinds) if kind == "prose"]
    rest = [f"[{n}]" for n, kind in enumerate(kinds) if kind != "prose"]
    assert said == prose
    assert shown == ["[question]", *rest]


def test_decks_are_written_beside_the_pages(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "one.html").write_text(str(page(WORDS.format("What is it?"))))
    for _ in range(2):  # a deck is no page: it gets no deck of its own
        (made,) = build(tmp_path)
    assert made == tmp_path / "notebooks" / f"one{SUFFIX}"
    assert "Slides: One" in made.read_text()
    assert {path.name for path in (tmp_path / "_static" / "reveal").iterdir()} == {
        "LICENSE", "reset.css", "reveal.css", "reveal.js", "notes.js"
    }  # fmt: skip


@pytest.mark.parametrize("mathjax", ["", "<script src='x/mathjax/tex.js'></script>"])
def test_formulas_are_set_where_the_page_sets_them(mathjax):
    html = str(page()).replace("</body>", f"{mathjax}<script src='other.js'></script></body>")
    assert ("tex.js" in deck(html, "one.html")) == bool(mathjax)
    assert "other.js" not in deck(html, "one.html")
