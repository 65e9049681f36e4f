"""The README's results: its table and figure, made from the recorded studies.

python -m lib.book.readme        rewrite what stands between the README's two marks
"""

import vl_convert

from lib.book import charts
from lib.files import replacing
from lib.records.provenance import ROOT
from lib.study import claims, recorded
from lib.study.profile import Profile

BEGIN, END = "<!-- results: made by `make lint` from the records -->", "<!-- end of results -->"
FIGURE = "book/_static/results.svg"


def results():
    """The text between the marks, and the SVG of its figure, which is of the first study."""
    studies, _ = recorded.studies(Profile.load("digits"), *claims.TABLES)
    names = [_name(study) for study in studies]
    tables = [
        [claims.planned(study[name], study.profile.grid) for name in claims.TABLES]
        for study in studies
    ]
    verdicts = [claims.evaluate(*four) for four in tables]
    networks = [len(four[0].drop_duplicates(["augmentation", "p", "seed"])) for four in tables]
    figure = _figure(tables[0][0], names[0])
    seeds = tables[0][0].seed.nunique()
    means = f"means over {seeds} seeds and 95 % intervals" if seeds > 1 else "one seed"
    lines = [
        f"![{figure.description}]({FIGURE})",
        "",
        f"*{figure.description}: {means}.*",
        "",
        f"| Sentence | of | {' | '.join(f'on {name}' for name in names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for claim, *others in zip(*verdicts, strict=True):
        words = " | ".join(one.verdict for one in (claim, *others))
        lines.append(f"| {claim.sentence} | {claim.source} | {words} |")
    said = [f"From {networks[0]} networks."]
    if len(studies) > 1:
        said = [f"Networks on {name}: {n}." for name, n in zip(names, networks, strict=True)]
        said.append("A verdict is about the data, the network and the epochs that it names.")
    for study, name in zip(studies, names, strict=True):
        if recorded.missing(study.profile, study["performance"]):
            share = recorded.completeness(study.profile, study["performance"])
            said.append(f"On {name}: {share}.")
        said += [f"{name}, {line}." for line in study.lacks]
    said.append("Digits are not CIFAR-10: they decide no claim about photographs.")
    spec = figure.spec() | {"background": "white"}
    return "\n".join([*lines, "", " ".join(said)]), vl_convert.vegalite_to_svg(spec)


def _name(study):
    return "digits" if study.profile.name == "digits" else study.label


def _figure(performance, name):
    kinds = {"clean error": {"attack": "none"}, claims.RISK: claims.ATTACK}
    shown = []
    for measure, where in kinds.items():
        part = performance
        for column, value in where.items():
            part = part[part[column] == value]
        shown.append(part.assign(measure=measure))
    return charts.against_p(
        charts.pd.concat(shown), y="share of test images", facet="measure", format=".1%",
        description=f"Clean error and risk under attack against p on {name}",
    )  # fmt: skip


def main():
    text, figure = results()
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    made = f"{before}{BEGIN}\n{text}\n{END}{after}"
    for file, content in ((ROOT / FIGURE, figure), (path, made)):
        with replacing(file) as temporary:
            temporary.write_text(content)


if __name__ == "__main__":
    main()
