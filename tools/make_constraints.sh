#!/usr/bin/env bash
# Pins what `make install` installs: every extra that needs no GPU, resolved anew in an empty environment.
# Run it after a change of dependencies:  tools/make_constraints.sh && make test
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-train,cpu,rtx,openvino,serve,score,sign,dev}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
grep -m1 '^torch==' constraints.txt > "$work/keep.txt" || echo 'torch==2.13.0' > "$work/keep.txt"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -c "$work/keep.txt" -e ".[$extras]"
{
  echo "# Made by tools/make_constraints.sh: the versions that the tests ran with."
  "$work/venv/bin/pip" list --format=freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu$//' | sort -f
} > "$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
