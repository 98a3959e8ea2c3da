"""Reads metrics files with Prometheus' own parser, strictly, and checks the samples against them.

    metrics.py SAMPLES METRICS...

Each file must hold every family once, with HELP, TYPE and samples of finite values. Each metric, and each
word of a label, that `alerts.yml` names must be in one of them. Exits with 1 and names the first difference.
"""

import configparser
import math
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import yaml
from prometheus_client.parser import text_string_to_metric_families

samples, files = pathlib.Path(sys.argv[1]), [pathlib.Path(name) for name in sys.argv[2:]]
LABELS = {"sunor_archive_tasks": {"status"}, "sunor_archive_assets": {"status"}, "sunor_archive_requests": {"kind"},
          "sunor_archive_rows": {"table"}}
ALWAYS = {"tasks", "assets", "asset_bytes", "requests", "rate_limited_requests", "rows", "exit_code", "run_seconds",
          "finished_timestamp_seconds"}
SOMETIMES = {"last_success_timestamp_seconds"}


def check(condition, *words):
    if not condition:
        sys.exit("different: " + " ".join(str(word) for word in words))


def read(file):
    """The samples of a file, by name and labels."""
    text = file.read_text()
    check(text.endswith("\n") and "\r" not in text, file, "is not complete text")
    for line in text.splitlines():
        check(re.fullmatch(r"# (HELP|TYPE) \w+ \S.*|\w+(\{\w+=\"\w+\"\})? \d+(\.\d+)?", line), file, line)
    found = {}
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    check(len(names) == len(set(names)), file, "has a family twice:", names)
    check(ALWAYS <= {name.removeprefix("sunor_archive_") for name in names} <= ALWAYS | SOMETIMES, file, names)
    for family in families:
        check(family.documentation and family.type == "gauge" and family.samples, file, family)
        check(text.count(f"# HELP {family.name} ") == text.count(f"# TYPE {family.name} ") == 1, file, family.name)
        for sample in family.samples:
            check(sample.name == family.name and math.isfinite(sample.value), file, sample)
            check(set(sample.labels) == LABELS.get(family.name, set()), file, sample)
            place = (sample.name, *sorted(sample.labels.items()))
            check(place not in found, file, "has twice:", place)
            found[place] = sample.value
    return found


def judge_alerts(known):
    names = {place[0] for place in known}
    words = {value for place in known for _, value in place[1:]}
    rules = [rule for group in yaml.safe_load((samples / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    check(len(rules) >= 5, "only", len(rules), "alerts")
    check(len({rule["alert"] for rule in rules}) == len(rules), "two alerts of one name")
    for rule in rules:
        check(set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule)
        used = set(re.findall(r"\bsunor_archive_\w+", rule["expr"]))
        check(used and used <= names, rule["alert"], "names", used - names)
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', rule["expr"]):
            check(set(value.split("|")) <= words, rule["alert"], "names", label, value)
        check(rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"], rule["alert"])
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "rules", samples / "alerts.yml"], check=True)


def judge_units():
    for unit in samples.glob("sunor-archive.*"):
        parsed = configparser.ConfigParser(strict=True, interpolation=None)
        parsed.optionxform = str
        parsed.read_string(unit.read_text())
        check({"Unit"} < set(parsed.sections()) <= {"Unit", "Service", "Timer", "Install"}, unit, parsed.sections())
    if shutil.which("systemd-analyze"):
        # It wants the program to be where the unit says; nothing else may be wrong.
        units = [str(unit) for unit in sorted(samples.glob("sunor-archive.*"))]
        said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True).stderr
        wrong = [line for line in said.splitlines() if "sunor-archive" in line and "is not executable" not in line]
        check(not wrong, *wrong)


def judge_crontab():
    field = r"(\*|\d+)([-/,]\d+)*"
    jobs = 0
    for line in (samples / "crontab").read_text().splitlines():
        if not line or line.startswith("#") or re.fullmatch(r"[A-Z]+=\S+", line):
            continue
        check(re.fullmatch(rf"({field} ){{5}}sunor-archive \S.*", line), "crontab:", line)
        check("%" not in line, "cron takes % for a line's end:", line)
        check(shlex.split(line), line)
        jobs += 1
    check(jobs, "crontab has no job")


known = {}
for file in files:
    known.update(read(file))
judge_alerts(known)
judge_units()
judge_crontab()
print(f"{len(files)} files, {len(known)} samples, as expected")
