"""What the Snakefile asks: which jobs a sweep has to do, and what a chapter is made from.

Knows no torch. `prepare` is for the one who starts the sweep; its jobs read what it has planned.
"""

import json
import time

from lib import records
from lib.records.provenance import ROOT, constants, imports
from lib.study.grid import jobs
from lib.study.index import Index, generator_file
from lib.study.profile import Profile
from lib.study.settings import FOLDER


def prepare(name):
    """Look up what is missing of a profile and plan its jobs; return the plan, as `planned` does.

    A record that is missing, damaged or of another version sends its job to work again: the mark of
    the job goes, and the file `due` changes, without which tables would be taken for complete. So
    it does where a point was recorded by hand, which is in no job.
    """
    profile = Profile.read(name)
    index, whole = Index(profile), jobs(profile)
    todo = {job: points for job, points in whole.items() if any(map(index.missing, points))}
    factors = [f for f in profile.generators() if generator_file(profile, f) not in index]
    if todo or factors:
        Profile.load(name)  # refuse settings before anything runs
    tables = dict.fromkeys(t for measure in profile.all_measures for t in profile.tables(measure))
    beside = {"cost": None} | tables
    if not profile.generators():
        beside.pop("generators", None)
    folder = records.runs() / profile.name
    there = {path.stem for path in (records.results() / profile.name).glob("*.parquet")}
    plan = {
        "runs": _relative(folder), "results": _relative(records.results() / profile.name),
        "tables": [*beside], "notebook": _relative(profile.source),
        "jobs": {job: _job(profile, whole, todo, factors, job) for job in todo},
        "generators": {factor: _judge(profile, todo) for factor in factors},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for job in (*todo, *factors):
        (folder / "jobs" / f"{job}.done").unlink(missing_ok=True)
    due = folder / "due"
    if todo or factors or index.uncollected or not there.issuperset(beside):
        due.write_text(str(time.time_ns()))
    plan["due"] = [_relative(due)] if due.exists() else []
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))
    return plan


def planned(name):
    """The plan that whoever started the sweep has written."""
    return json.loads((records.runs() / Profile.read(name).name / "plan.json").read_text())


def _job(profile, whole, todo, factors, job):
    """The parameters of a job, and the jobs that come before it.

    A job's points are compared with the p = 0 models of their seeds: those jobs come first. So do
    the model whose adversarial examples are tried on those of the first seed, and the training of
    the generators that they need.
    """
    points, after = whole[job], []
    axes = {
        axis: list(dict.fromkeys(point.cell[axis] for point in points)) for axis in profile.axes
    }
    if hasattr(profile, "augmentations"):
        own = {point.seed for point in points}
        first, *others = profile.grid["seed"]
        seeds = own if points[0].p > 0 else set()
        seeds |= set(others[:1]) if first in own else set()
        after = [name for name, there in todo.items() if name != job and there[0].p == 0
                 and seeds & {point.seed for point in there}]  # fmt: skip
        needed = {f for point in points for f in profile.generators(point.augmentation)}
        after += sorted(needed.intersection(factors))
    return {"parameters": {"profile": str(profile.path), **axes}, "after": after,
            "points": len(points)}  # fmt: skip


def _judge(profile, todo):
    """A generator is judged by the p = 0 model of the first seed."""
    first = profile.grid["seed"][0]
    return [name for name, points in todo.items()
            if points[0].p == 0 and first in {point.seed for point in points}]  # fmt: skip


def chapters():
    """The names of the book's chapters, in their order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py"))


def sources(notebook):
    """A notebook and the modules of lib/ that it imports, by paths relative to the root."""
    return [str(notebook), *sorted(str(file.relative_to(ROOT)) for file in imports(notebook))]


def tables(chapter):
    """The files that a chapter says it reads, in a literal READS.

    "stress" is that table of every recorded study, and has to be there of the digits; "coin/flips"
    is the table of one profile. With them comes what decides which rows are read, and what a study
    is called.
    """
    results, names = records.results(), set()
    for said in constants(ROOT / "notebooks" / f"{chapter}.py").get("READS", ()):
        profile, _, table = said.rpartition("/")
        names |= {results / (profile or "digits") / f"{table}.parquet"}
        names |= set() if profile else set(results.glob(f"*/{table}.parquet"))
    if names:
        names |= {*results.glob("versions.yaml"), *FOLDER.glob("*.yaml")}
    return sorted(_relative(name) for name in names)


def _relative(path):
    """As Snakemake compares paths: from the root, where they lie under it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
