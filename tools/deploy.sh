#!/usr/bin/env bash
# Checks deploy/: the unit with systemd-analyze, the manifests against Kubernetes' schemas (kubernetes-validate, from PyPI into target/deploy).
set -euo pipefail
cd "$(dirname "$0")/.."
work=target/deploy
mkdir -p $work/osprey.service.d
cp deploy/osprey-gpu.conf $work/osprey.service.d/gpu.conf
# The unit names a binary that is not installed here.
sed "s,/usr/local/bin/osprey,$(command -v true)," deploy/osprey.service > $work/osprey.service
systemd-analyze verify $work/osprey.service
rm -r $work/osprey.service.d
# Its measure of what a service could do to the machine, from 0 to 10 (worst), times ten.
systemd-analyze security --offline=true --threshold=20 $work/osprey.service | tail -1
[ -x $work/venv/bin/pip ] || python3 -m venv $work/venv
$work/venv/bin/pip install --quiet --disable-pip-version-check kubernetes-validate pyyaml
$work/venv/bin/kubernetes-validate --strict deploy/kubernetes.yaml
$work/venv/bin/python - <<'END'
import re, yaml
docs = {d["kind"]: d for d in yaml.safe_load_all(open("deploy/kubernetes.yaml"))}
pod = docs["Deployment"]["spec"]["template"]["spec"]
drain = int(next(a for a in pod["containers"][0]["args"] if "drain" in a).split("=")[1])
sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
assert pod["terminationGracePeriodSeconds"] > drain + sleep
unit = open("deploy/osprey.service").read()
assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > int(re.search(r"--drain-seconds (\d+)", unit)[1])
monitor = yaml.safe_load(open("deploy/servicemonitor.yaml"))["spec"]
labels = docs["Service"]["metadata"]["labels"]
assert monitor["selector"]["matchLabels"].items() <= labels.items()
assert monitor["endpoints"][0]["port"] in [p["name"] for p in docs["Service"]["spec"]["ports"]]
assert monitor["endpoints"][0]["authorization"]["credentials"]["key"] in docs["Secret"]["stringData"]
print("deploy: all right")
END
