#!/bin/sh
# The whole suite on a real GPU, and one folder that says how it went: tools/gpu.sh [REPORT].
# Under nine minutes, whatever happens. Needs nothing but NVIDIA's driver and what `make gpu-bundle` built: run it in the
# repository, or in a copy that has target/gpu.
set -u
cd "$(dirname "$0")/.."
bin=target/gpu
report=${1:-target/gpu-report}
[ -x $bin/osprey ] && [ -x $bin/suite ] || {
	echo "tools/gpu.sh: $bin is incomplete: run \`make gpu-bundle\` where cargo is, and bring the folder" >&2
	exit 1
}
rm -rf "$report"
mkdir -p "$report"
failed=0

# step NAME SECONDS COMMAND...: its output goes to a file, its fate to the summary.
step() {
	name=$1 limit=$2
	shift 2
	start=$(date +%s)
	timeout "$limit" "$@" >"$report/$name.txt" 2>&1
	code=$?
	[ $code = 0 ] || failed=1
	echo "$name: exit $code after $(($(date +%s) - start)) s: $*" | tee -a "$report/summary.txt"
}

if command -v nvidia-smi >/dev/null; then step device 10 nvidia-smi -q; fi
step tests 120 env REQUIRE=cuda $bin/suite --nocapture
step lockstep 30 $bin/osprey run --model models/demo --device cuda --lockstep cpu --dtype bf16 --temperature 0 \
	--input examples/shapes.png --prompt "How many circles are there?"
if command -v compute-sanitizer >/dev/null; then
	step sanitizer 90 env REQUIRE=cuda compute-sanitizer --error-exitcode 1 $bin/suite kernels_match
fi
step kernels 240 $bin/osprey bench kernels --device cuda --json "$report/kernels.json" --html "$report/kernels.html"
exit $failed
