#!/usr/bin/env bash
# A mailbox's channel against a real mail server, mail-devel: over SMTP and IMAP, plain and with
# TLS, with a person on the other side who reads and answers as mail programs do.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/python-env.sh
here=tests/peers/mail
venv=target/tools/mail

python_env "$venv" "$here/requirements.txt"
scripts/build-tests.sh
exec $venv/bin/python $here/check.py target/debug/examples/mailbox
