# The way of the data: notebooks make records, records make tables, tables make chapters, chapters
# make the website. Each step runs again when, and only when, what it reads has changed.

import json
import re
from pathlib import Path

from lib.study import workflow as ways

PROFILE = config.get("profile", "digits")
# What is recorded stands: the plan knows whether the code of a measure has changed since. Who
# starts the sweep looks it up; a job on another machine reads what was found.
PLAN = (ways.prepare if workflow.is_main_process else ways.planned)(PROFILE)
JOBS, FACTORS = PLAN["jobs"], PLAN["generators"]
TABLES = [f"{PLAN['results']}/{table}.parquet" for table in PLAN["tables"]]
MARK = f"{PLAN['runs']}/jobs/{{job}}.done"


localrules: book, sweep, collect, site


rule book:
    input: "_build/.done"


rule sweep:
    input: TABLES


rule generator:
    input: lambda wildcards: expand(MARK, job=FACTORS[wildcards.job]), ways.sources("lib/study/point.py")
    output: touch(MARK)
    params: profile=PROFILE
    wildcard_constraints: job="|".join(map(re.escape, FACTORS)) or "none"
    priority: 1000  # many points wait for it
    threads: 1
    shell: "python -m lib.study generator {params.profile:q} {wildcards.job:q}"


rule points:
    input: lambda wildcards: expand(MARK, job=JOBS[wildcards.job]["after"]), ways.sources(PLAN["notebook"])
    output: touch(MARK)
    log: notebook=f"{PLAN['runs']}/executed/{{job}}.ipynb"
    params: notebook=PLAN["notebook"], values=lambda wildcards: json.dumps(JOBS[wildcards.job]["parameters"])
    wildcard_constraints: job="|".join(map(re.escape, JOBS)) or "none"
    priority: lambda wildcards: JOBS[wildcards.job]["points"]  # long ones first: no worker ends alone
    threads: 1
    shell:
        "jupytext --quiet --to ipynb --output - {params.notebook:q}"
        " | papermill --no-progress-bar --cwd notebooks -y {params.values:q} - {log.notebook:q}"


rule collect:
    input: expand(MARK, job=[*JOBS, *FACTORS]), PLAN["due"]
    output: update(TABLES)  # Snakemake would else remove the tables that are to be extended
    params: profile=PROFILE
    shell: "python -m lib.study collect {params.profile:q}"


rule chapter:
    input: lambda wildcards: ways.tables(wildcards.chapter), source=lambda wildcards: ways.sources(f"notebooks/{wildcards.chapter}.py")
    output: "runs/book/{chapter}.ipynb"
    threads: 1
    shell: "python -m lib.book execute notebooks/{wildcards.chapter}.py {output}"


rule site:
    input:
        expand("runs/book/{chapter}.ipynb", chapter=ways.chapters()),
        "_config.yml", "_toc.yml", "lib/book/build.py", "lib/book/slides.py",
        [str(path) for path in sorted(Path("book").rglob("*")) if path.is_file()],
    output: touch("_build/.done")
    shell: "python -m lib.book build"
