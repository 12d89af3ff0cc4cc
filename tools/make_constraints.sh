#!/usr/bin/env bash
# Pins what `make install` installs: every extra that needs no GPU. Packages that are pinned already stay as they are; delete their
# lines from constraints.txt first to have them resolved anew (all at once keeps pip searching for minutes).
#   tools/make_constraints.sh && make test
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-train,cpu,rtx,openvino,serve,score,ray,sign,tensorboard,dev}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -c constraints.txt -e ".[$extras]"
{
  echo "# Made by tools/make_constraints.sh: the versions that the tests ran with."
  "$work/venv/bin/pip" list --format=freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu$//' | sort -f
} > "$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
