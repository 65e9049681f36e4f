# The way of the data: point.py makes records, records make tables, tables make chapters, chapters
# make the website. Each step runs again when, and only when, what it reads has changed.

import json
import os
import re
import time
from pathlib import Path

from lib import records
from lib.study.grid import jobs
from lib.study.profile import Profile
from lib.records.provenance import imports
from lib.study.point import generator_recorded, recorded
from lib.study.trained import generators

CHAPTERS = {  # and the tables that each reads
    "01_definition": [],
    "02_augmentations": ["generators"],
    "03_performance": ["performance", "distances", "checks"],
    "04_stress": ["stress", "performance", "distances"],
    "05_influence": ["influence", "distribution"],
    "06_findings": ["performance", "distances", "checks", "stress", "influence"],
    "07_recorded": ["cost"],
}
TABLES = ["performance", "distances", "checks", "stress", "influence", "distribution", "cost"]

PROFILE = config.get("profile", "digits")
if str(PROFILE).endswith(".yaml"):  # a path, which notebooks see from another folder
    PROFILE = str(Path(PROFILE).resolve())
SETTINGS = Profile.load(PROFILE)
NAME = SETTINGS.name
JOBS = jobs(SETTINGS)
GENERATORS = generators(SETTINGS)
TABLES += ["generators"] if GENERATORS else []

RESULTS = os.path.relpath(records.results())

# A record that is missing, damaged or of another version sends its job to work again: the mark
# of the job goes, and DUE changes, without which Snakemake would be content with old tables.
TODO = {name for name, points in JOBS.items() if not all(recorded(SETTINGS, p) for p in points)}
TODO |= {name for name in GENERATORS if not generator_recorded(SETTINGS, name)}
DUE = Path(f"runs/{NAME}/due")
for name in TODO:
    Path(f"runs/{NAME}/jobs/{name}.done").unlink(missing_ok=True)
tables_there = [path for table in TABLES if (path := Path(RESULTS, NAME, f"{table}.parquet")).exists()]
# A point that was made by hand is in no job.
newest = max((path.stat().st_mtime for path in Path(f"runs/{NAME}/records").glob("*.parquet")), default=0)
complete = len(tables_there) == len(TABLES)
collected = complete and newest <= max(path.stat().st_mtime for path in tables_there)
if TODO or not collected:
    DUE.parent.mkdir(parents=True, exist_ok=True)
    DUE.write_text(str(time.time_ns()))
# What is recorded stands: `recorded` knows whether the engine has changed since.
WANTED = sorted(TODO)


def sources(notebook):
    """A notebook and the modules of lib/ that it imports, by paths relative to the root."""
    root = Path.cwd()
    return [notebook, *sorted(str(file.relative_to(root)) for file in imports(notebook))]


def before(wildcards):
    """A job's points are compared with the p = 0 models of their seeds: those jobs come first.

    So do the model whose adversarial examples are tried on those of the first seed, and the
    training of the generators that they need.
    """
    points = JOBS[wildcards.job]
    own = {point.seed for point in points}
    first, *others = SETTINGS.grid["seed"]
    seeds = own if points[0].p > 0 else set()
    seeds |= set(others[:1]) if first in own else set()
    names = [name for name, there in JOBS.items() if name != wildcards.job
             and there[0].p == 0 and seeds & {point.seed for point in there}]
    names += sorted({f for point in points for f in SETTINGS.generators(point.augmentation)})
    return [f"runs/{NAME}/jobs/{name}.done" for name in names if name in WANTED]


def judge(wildcards):
    """A generator is judged by the p = 0 model of the first seed."""
    first = SETTINGS.grid["seed"][0]
    names = [name for name, points in JOBS.items()
             if points[0].p == 0 and first in {point.seed for point in points}]
    return [f"runs/{NAME}/jobs/{name}.done" for name in names if name in WANTED]


def parameters(wildcards):
    points = JOBS[wildcards.job]
    axes = {axis: list(dict.fromkeys(getattr(point, axis) for point in points))
            for axis in ("augmentation", "p", "seed")}
    return json.dumps({"profile": str(PROFILE), **axes})


def tables(wildcards):
    """The tables that a chapter reads, of this study's profile and of every recorded one."""
    names = {f"{RESULTS}/digits/{table}.parquet" for table in CHAPTERS[wildcards.chapter]}
    for table in CHAPTERS[wildcards.chapter]:
        names |= {str(path) for path in Path(RESULTS).glob(f"*/{table}.parquet")}
    if names:  # what decides which rows are read, and what a study is called
        names |= {str(path) for path in Path(RESULTS).glob("versions.yaml")}
        names |= {str(path) for path in Path("notebooks/profiles").glob("*.yaml")}
    return sorted(names)


rule book:
    input: "_build/.done"


rule sweep:
    input: expand("{results}/{profile}/{table}.parquet", results=RESULTS, profile=NAME, table=TABLES)


rule generator:
    input: judge, sources("lib/study/point.py")
    output: touch("runs/{profile}/jobs/{job}.done")
    params: profile=PROFILE
    wildcard_constraints: profile=NAME, job="|".join(map(re.escape, GENERATORS)) or "none"
    priority: 1000  # many points wait for it
    threads: 1
    shell: "python -m lib.study generator {params.profile:q} {wildcards.job:q}"


rule points:
    input: before, sources("notebooks/point.py")
    output: touch("runs/{profile}/jobs/{job}.done")
    log: notebook="runs/{profile}/executed/{job}.ipynb"
    params: values=parameters
    wildcard_constraints: profile=NAME, job="|".join(map(re.escape, JOBS))
    priority: lambda wildcards: len(JOBS[wildcards.job])  # long ones first: no worker ends alone
    threads: 1
    shell:
        "jupytext --quiet --to ipynb --output - notebooks/point.py"
        " | papermill --no-progress-bar --cwd notebooks -y {params.values:q} - {log.notebook:q}"


rule collect:
    input: expand("runs/{profile}/jobs/{job}.done", profile=NAME, job=WANTED), [str(DUE)] * DUE.exists()
    # update(): Snakemake would else remove the tables that are to be extended.
    output: update(expand("{results}/{profile}/{table}.parquet", results=RESULTS, profile=NAME, table=TABLES))
    params: profile=PROFILE
    shell: "python -m lib.study collect {params.profile:q}"


rule chapter:
    input: tables, source=lambda wildcards: sources(f"notebooks/{wildcards.chapter}.py")
    output: "runs/book/{chapter}.ipynb"
    threads: 1
    shell: "python -m lib.book execute notebooks/{wildcards.chapter}.py {output}"


rule site:
    input:
        expand("runs/book/{chapter}.ipynb", chapter=CHAPTERS),
        "_config.yml", "_toc.yml", "lib/book/build.py", "lib/book/slides.py",
        [str(path) for path in sorted(Path("book").rglob("*")) if path.is_file()],
    output: touch("_build/.done")
    shell: "python -m lib.book build"
