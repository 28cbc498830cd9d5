#!/usr/bin/env bash
# Feishu, WeCom and WeChat as the platforms' own libraries and a third party's see them: what those
# sign and seal is heard, what we seal they open, and what was changed on the way nobody takes.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/cn-signatures
venv=target/tools/cn-signatures
node=target/tools/cn-signatures-node

python_env "$venv" "$here/requirements.txt"
mkdir -p $node
cp $here/package.json $here/package-lock.json $here/oracle.cjs $node/
(cd $node && npm ci --silent --no-audit --no-fund --ignore-scripts)
scripts/build-tests.sh
exec $venv/bin/python $here/check.py target/debug/examples/adapter $node/oracle.cjs
