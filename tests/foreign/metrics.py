"""Checks metrics files with the Prometheus parser, and the sample files for alerts, systemd and cron.

    metrics.py SAMPLES METRICS...

Each metrics file must contain every metric family once, with HELP, TYPE and samples with finite values. Each metric
and each label value in `alerts.yml` must occur in a metrics file. The script reports the first error and exits with
status 1.
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
    """Returns the samples in a metrics file, keyed by name and labels."""
    text = file.read_text()
    check(text.endswith("\n") and "\r" not in text, file, "does not end with a newline, or contains a CR")
    for line in text.splitlines():
        check(re.fullmatch(r"# (HELP|TYPE) \w+ \S.*|\w+(\{\w+=\"\w+\"\})? \d+(\.\d+)?", line), file, line)
    found = {}
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    check(len(names) == len(set(names)), file, "has a duplicate family:", names)
    check(ALWAYS <= {name.removeprefix("sunor_archive_") for name in names} <= ALWAYS | SOMETIMES, file, names)
    for family in families:
        check(family.documentation and family.type == "gauge" and family.samples, file, family)
        check(text.count(f"# HELP {family.name} ") == text.count(f"# TYPE {family.name} ") == 1, file, family.name)
        for sample in family.samples:
            check(sample.name == family.name and math.isfinite(sample.value), file, sample)
            check(set(sample.labels) == LABELS.get(family.name, set()), file, sample)
            place = (sample.name, *sorted(sample.labels.items()))
            check(place not in found, file, "has a duplicate sample:", place)
            found[place] = sample.value
    return found


def judge_alerts(known):
    names = {place[0] for place in known}
    words = {value for place in known for _, value in place[1:]}
    rules = [rule for group in yaml.safe_load((samples / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    check(len(rules) >= 5, "only", len(rules), "alerts")
    check(len({rule["alert"] for rule in rules}) == len(rules), "two alerts have the same name")
    for rule in rules:
        check(set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule)
        used = set(re.findall(r"\bsunor_archive_\w+", rule["expr"]))
        check(used and used <= names, rule["alert"], "uses unknown metrics:", used - names)
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', rule["expr"]):
            check(set(value.split("|")) <= words, rule["alert"], "uses an unknown label value:", label, value)
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
        # systemd-analyze warns if the program is not installed. This warning is ignored.
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
        check("%" not in line, "cron treats % as a newline:", line)
        check(shlex.split(line), line)
        jobs += 1
    check(jobs, "the crontab has no jobs")


known = {}
for file in files:
    known.update(read(file))
judge_alerts(known)
judge_units()
judge_crontab()
print(f"{len(files)} files, {len(known)} samples, as expected")
