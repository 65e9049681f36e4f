"""The README's results: its table and figure, made from the recorded digits study.

python -m lib.readme        rewrite what stands between the README's two marks
"""

import vl_convert

from lib import charts, claims, records
from lib.files import replacing
from lib.profile import Profile
from lib.provenance import ROOT

BEGIN, END = "<!-- results: made by `make lint` from the records -->", "<!-- end of results -->"
FIGURE = "book/_static/digits.svg"


def results(profile="digits"):
    """The text between the marks, and the figure's SVG."""
    grid = Profile.load(profile).grid
    tables = [claims.planned(records.read(profile, name), grid) for name in claims.TABLES]
    performance = tables[0]
    kinds = {"clean error": {"attack": "none"}, claims.RISK: claims.ATTACK}
    shown = []
    for name, where in kinds.items():
        part = performance
        for column, value in where.items():
            part = part[part[column] == value]
        shown.append(part.assign(measure=name))
    figure = charts.against_p(
        charts.pd.concat(shown), y="share of test images", facet="measure", format=".1%",
        description=f"Clean error and risk under attack against p on {profile}",
    )  # fmt: skip
    spec = figure.spec() | {"background": "white"}
    points = performance.drop_duplicates(["augmentation", "p", "seed"])
    lines = [
        f"![{figure.description}]({FIGURE})",
        "",
        f"*{figure.description}: means over {points.seed.nunique()} seeds and 95 % intervals.*",
        "",
        "| Sentence | of | on digits |",
        "|---|---|---|",
        *(f"| {c.sentence} | {c.source} | {c.verdict} |" for c in claims.evaluate(*tables)),
        "",
        f"From {len(points)} networks. Digits are not CIFAR-10: they decide no claim about "
        "photographs.",
    ]
    return "\n".join(lines), vl_convert.vegalite_to_svg(spec)


def main():
    text, svg = results()
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    for file, content in {
        ROOT / FIGURE: svg,
        path: f"{before}{BEGIN}\n{text}\n{END}{after}",
    }.items():
        with replacing(file) as temporary:
            temporary.write_text(content)


if __name__ == "__main__":
    main()
