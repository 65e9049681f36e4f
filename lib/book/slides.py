"""Slides of the chapters, made from the website's pages: what they show is shown, prose is spoken.

Sections go from left to right, and what belongs to one goes down. A slide shows a heading,
formulas, lists, definitions and one large thing: a figure, a table or the code of a cell. The
paragraphs around it are the speaker's notes. The first paragraph of a chapter, its question, and
words in bold with which a paragraph begins are shown.
"""

import copy
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import sphinx_revealjs
from bs4 import BeautifulSoup
from bs4.element import Tag

from lib.book.figure import drawn
from lib.files import replacing

REVEAL = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
ASSETS = ["LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js"]
ROOM, ABOVE = 12, 3  # lines of text that a slide has room for, alone and above a large thing
COLUMNS = 4  # panels of a chart side by side
SUFFIX = ".slides.html"

PAGE = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="../_static/favicon.svg">
<link rel="stylesheet" href="../_static/reveal/reset.css">
<link rel="stylesheet" href="../_static/reveal/reveal.css">
<link rel="stylesheet" href="../_static/pygments.css">
<style>
.reveal {{ font: 26px/1.4 sans-serif; color: #222; }}
.reveal .slides {{ text-align: left; }}
.reveal h1, .reveal h2, .reveal h3 {{ font-weight: 600; line-height: 1.2; margin: 0 0 0.5em; }}
.reveal h1 {{ font-size: 56px; margin-top: 180px; }}
.reveal h2, .reveal h3 {{ font-size: 38px; }}
.reveal .body {{ max-height: 610px; overflow: auto; }}
.reveal h1 + .body {{ max-height: 390px; }}
.reveal p, .reveal ul, .reveal ol, .reveal .admonition {{ margin: 0.5em 0; }}
.reveal ul, .reveal ol {{ padding-left: 1.2em; }}
.reveal a {{ color: #0072b2; }}
.reveal figure.chart svg {{ display: block; width: 100%; height: auto; max-height: 500px; }}
.reveal figcaption, .reveal caption {{ font-size: 18px; color: #555; text-align: left; }}
.reveal .pictures {{ font-size: 14px; zoom: 1.4; }}
.reveal .pictures figcaption {{ text-align: center; }}
.reveal table {{ font-size: 24px; border-collapse: collapse; }}
.reveal caption {{ caption-side: bottom; }}
.reveal td, .reveal th {{ padding: 0.2em 0.8em 0.2em 0; border-bottom: 1px solid #ccc; }}
.reveal th {{ text-align: left; }}
.reveal pre, .reveal code {{ font-family: monospace; }}
.reveal pre {{ font-size: 19px; line-height: 1.35; margin: 0; }}
.reveal div.math {{ font-size: 1.2em; }}
.reveal .admonition {{ border-left: 4px solid #0072b2; padding-left: 0.8em; }}
.reveal .admonition-title {{ font-weight: 600; }}
</style>
{formulas}
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="../_static/reveal/reveal.js"></script>
<script src="../_static/reveal/notes.js"></script>
<script>
Reveal.initialize({{
  width: 1280, height: 720, margin: 0.04, center: false, hash: true, slideNumber: "c/t",
  transition: "none", plugins: [RevealNotes],
}});
// Tables and code scroll where they are too long; pictures and charts shrink.
function fit() {{
  for (const body of document.querySelectorAll(".body")) {{
    const over = () => body.scrollHeight > body.clientHeight + 1;
    for (const pictures of body.querySelectorAll(".pictures"))
      for (let zoom = 1.4; zoom > 0.5 && over(); zoom -= 0.05) pictures.style.zoom = zoom;
    for (const chart of body.querySelectorAll(".chart svg"))
      for (let height = 500; height > 200 && over(); height -= 20)
        chart.style.maxHeight = `${{height}}px`;
  }}
}}
for (const event of ["ready", "slidechanged", "pdf-ready"]) Reveal.on(event, fit);
</script>
</body>
</html>
"""


@dataclass
class Slide:
    """What is shown below a heading, and said before and after it, as HTML elements.

    `lines`: the room that the text takes; `large`: whether a large thing is shown as well.
    """

    heading: Tag
    shown: list = field(default_factory=list)
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    lines: int = 0
    large: bool = False


def build(html):
    """Write a deck beside the page of each chapter of the website in `html`; return their paths."""
    html = Path(html)
    for name in ASSETS:
        target = html / "_static" / "reveal" / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REVEAL / name, target)
    pages = sorted((html / "notebooks").glob("*.html"))
    pages = [page for page in pages if not page.name.endswith(SUFFIX)]
    return [_write(page) for page in pages]


def _write(page):
    target = page.with_suffix(SUFFIX)
    with replacing(target) as temporary:
        temporary.write_text(deck(page.read_text(), page.name))
    return target


def deck(html, name):
    """The deck of the chapter whose page, called `name`, has this HTML."""
    page = BeautifulSoup(html, "html.parser")
    columns = "\n".join(
        f"<section>\n{''.join(map(_html, column))}</section>" for column in outline(page, name)
    )
    scripts = [s for s in page.find_all("script") if "mathjax" in (s.get("src") or s.text).lower()]
    return PAGE.format(
        title=f"Slides: {page.title.get_text(strip=True)}",
        formulas="\n".join(map(str, scripts)), slides=columns,
    )  # fmt: skip


def outline(page, name=""):
    """The slides of a chapter's page, parsed, as a list of columns, which are lists of Slides."""
    article = copy.copy(page.article)
    for figure in article.select("figure.chart"):
        _widen(figure)
    for one in article.select("a.headerlink, script, details.hide > summary"):
        one.decompose()
    for link in article.select("a[href^='#']"):
        link["href"] = name + link["href"]
    for one in article.select("[id]"):
        if not one.find_parent("svg"):
            del one["id"]
    columns = []
    for kind, element in _parts(article):
        if kind == "heading":
            if element.name != "h3":
                columns.append([])
            columns[-1].append(Slide(element))
        elif kind == "prose":
            _say(columns[-1], element)
        else:
            _show(columns[-1], element, large=kind == "large")
    return columns


def _widen(figure):
    """Draw a chart of several panels anew, for a slide: wide where a page is tall."""
    spec = json.loads(figure.script.string)
    if "facet" in spec:
        svg = drawn(spec | {"columns": COLUMNS})
        figure.svg.replace_with(BeautifulSoup(svg, "html.parser"))


def _parts(element):
    """(kind, element) of all that follows one another on a page."""
    for child in element.find_all(recursive=False):
        classes = set(child.get("class", []))
        if child.name in ("h1", "h2", "h3"):
            yield "heading", child
        elif child.name == "p":
            yield "prose", child
        elif "cell" in classes:
            yield from _cell(child)
        elif "highlight" in " ".join(classes) or child.name == "table":
            yield "large", child
        elif child.name == "section" or (child.name == "div" and not classes):
            yield from _parts(child)
        elif child.get_text(strip=True):
            yield "text", child


def _cell(cell):
    for code in cell.select(":scope > .cell_input"):  # one that is not folded
        if not code.get_text().lstrip().startswith(("import ", "from ")):
            yield "large", code
    for output in cell.select(":scope > .cell_output > *, :scope > details > .cell_output > *"):
        yield ("large" if "output" in output.get("class", []) else "text"), output


def _say(column, paragraph):
    slide = column[-1]
    if slide.heading.name == "h1" and not slide.shown:
        slide.shown.append(paragraph)
        return
    first = next((child for child in paragraph.children if str(child).strip()), None)
    if isinstance(first, Tag) and first.name == "strong":
        _show(column, BeautifulSoup(f"<p>{first}</p>", "html.parser").p)
        slide = column[-1]
    (slide.after if slide.large else slide.before).append(paragraph)


def _show(column, element, *, large=False):
    """Show an element on the column's last slide, or where it has no room on a new one.

    What was said after the last large thing leads to the element, and goes along.
    """
    slide = column[-1]
    lines = 0 if large else _lines(element)
    room = ABOVE if large else ROOM
    if slide.large or (slide.lines and slide.lines + lines > room):
        heading, led = copy.copy(slide.heading), slide.after
        heading.name, slide.after = "h3" if heading.name == "h3" else "h2", []
        slide = Slide(heading, before=led)
        column.append(slide)
    for part in element.select("section"):  # of a definition: reveal.js takes each for a slide
        part.name = "div"
    slide.shown.append(element)
    slide.lines, slide.large = slide.lines + lines, large


def _lines(element):
    """About how many lines an element of text takes."""
    formulas = len(element.select("div.math")) + ("math" in element.get("class", []))
    rows = len(element.find_all(["li", "p"]))
    return 3 * formulas + max(rows, len(element.get_text()) // 80, 1)


def _html(slide):
    notes = "".join(map(str, [*slide.before, *slide.after]))
    notes = f'<aside class="notes">{notes}</aside>\n' if notes else ""
    body = f'<div class="body">\n{"".join(map(str, slide.shown))}\n</div>'
    return f"<section>\n{slide.heading}\n{body}\n{notes}</section>\n"
