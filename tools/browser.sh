#!/bin/sh
# Gets headless Chromium and what drives it, for the test of the playground: the browser from Debian's packages if there is none, Playwright from
# PyPI into target/browser. Prints the browser's path. Exits with 77 where it cannot be had.
set -eu
cd "$(dirname "$0")/.."

missing() {
	echo "tools/browser.sh: $1" >&2
	exit 77
}

find_browser() {
	for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
		[ -n "$name" ] && command -v "$name" && return
	done
	return 1
}

if ! find_browser >/dev/null; then
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || missing "there is no Chromium: install one, or set CHROMIUM to its path"
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >&2 ||
		missing "apt-get could not install chromium (see above)"
fi
if ! [ -f target/browser/ready ]; then
	{ python3 -m venv target/browser && target/browser/bin/pip install --quiet --disable-pip-version-check playwright; } >&2 ||
		missing "pip could not install playwright (see above)"
	touch target/browser/ready
fi
find_browser
