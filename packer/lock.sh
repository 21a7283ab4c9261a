#!/usr/bin/env bash
# Writes the two locks anew from pyproject.toml: every package the agent needs, and every one its wheel is built
# with, each with the digests of all its files. The versions are those of pyproject.toml; of what those need in
# turn, the locked ones stay as long as they fit.
#
#   lock.sh [--upgrade]
#
# UV  the program to ask (default: uv)
set -euo pipefail

PACKER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly PACKER
readonly UV=${UV:-uv}

compile() {
    "$UV" pip compile --quiet --no-config --universal --generate-hashes --no-annotate --python-version 3.11 \
        --custom-compile-command 'make lock' "$@"
}

compile "$@" --output-file "$PACKER/requirements.lock" "$PACKER/../pyproject.toml"
python3 - "$PACKER/../pyproject.toml" <<'PYTHON' | compile "$@" --output-file "$PACKER/build.lock" -
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["build-system"]["requires"]))
PYTHON
