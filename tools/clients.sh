#!/usr/bin/env bash
# Runs clients that people use, unmodified, against `osprey serve` with the demo model: the official openai packages for Python and JavaScript,
# LangChain's ChatOpenAI, and schemathesis, which asks whatever /openapi.json allows. Needs python3 with venv, pip, node and npm; installs into
# target/clients.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked
work=target/clients
mkdir -p $work
[ -x $work/bin/pip ] || python3 -m venv $work
$work/bin/pip install --quiet --disable-pip-version-check openai langchain-openai schemathesis
npm install --silent --no-save --prefix $work openai
: > $work/log
export OSPREY_API_KEY=test-key
target/debug/osprey serve --device cpu --port 0 --context 1024 --log-format json 2> $work/log &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
until grep -q listening $work/log; do kill -0 $server; sleep 0.1; done
address="http://$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' $work/log | head -1)"
$work/bin/python tools/clients.py "$address"
NODE_PATH=$work/node_modules node tools/clients.cjs "$address"
# Wrong answers are a 5xx, and what the document does not describe: a status, a type, a body that its schema forbids.
(cd $work && bin/schemathesis run "$address/openapi.json" --header "Authorization: Bearer $OSPREY_API_KEY" --phases examples,coverage,fuzzing \
	--checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
	--max-examples 150 --generation-database none --seed 1 --workers 1 --request-timeout 60)
kill -0 $server
