#!/usr/bin/env bash
# Fills a folder with the wheels that packer/scripts/80-agent.sh installs: all that the agent depends on, as the
# lock says and for the image's own Python, and the agent itself.
#
#   wheels.sh all|dependencies|project RELEASE MACHINE FOLDER
#
# RELEASE  of the image: bookworm, trixie or noble
# MACHINE  x86_64 or aarch64; it may be another than this one, for nothing is compiled here
# FOLDER   is made if it is not there
#
# ONEKE_BUILD_PYTHON  a Python that has pip and the project's build backend (default: one is made for this run)
set -euo pipefail

PACKER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly PACKER
readonly WHAT=${1-} RELEASE=${2-} MACHINE=${3-} FOLDER=${4-}

fail() {
    echo "wheels.sh: $*" >&2
    exit 64
}

# Python and C library of a release, for which wheels are chosen
case $RELEASE in
    bookworm) python=3.11 glibc_minor=36 ;;
    noble) python=3.12 glibc_minor=39 ;;
    trixie) python=3.13 glibc_minor=41 ;;
    *) fail "release '$RELEASE': expected bookworm, trixie or noble" ;;
esac
[[ $MACHINE == x86_64 || $MACHINE == aarch64 ]] || fail "machine '$MACHINE': expected x86_64 or aarch64"
[[ -n $FOLDER ]] || fail "expected a folder for the wheels"

# Nothing but the lock decides what is taken.
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [[ -z ${ONEKE_BUILD_PYTHON-} ]]; then
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    python3 -m venv "$tools"
    ONEKE_BUILD_PYTHON=$tools/bin/python
    "$ONEKE_BUILD_PYTHON" -m pip install --quiet --require-hashes --no-deps --requirement "$PACKER/build.lock"
fi

download_dependencies() {
    local target=(--implementation cp --python-version "$python") minor
    for ((minor = glibc_minor; minor > 4; minor--)); do
        target+=(--platform "manylinux_2_${minor}_$MACHINE")
    done
    for old in 2014 2010 1; do
        target+=(--platform "manylinux${old}_$MACHINE")
    done
    "$ONEKE_BUILD_PYTHON" -m pip download --quiet --require-hashes --no-deps --only-binary=:all: "${target[@]}" \
        --requirement "$PACKER/requirements.lock" --dest "$FOLDER"
    install -m 0644 "$PACKER/requirements.lock" "$FOLDER/requirements.lock"
}

build_project() {
    "$ONEKE_BUILD_PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$FOLDER" "$PACKER/.."
}

mkdir -p "$FOLDER"
case $WHAT in
    all)
        rm -f "$FOLDER"/*.whl
        download_dependencies
        build_project
        ;;
    dependencies) download_dependencies ;;
    project) build_project ;;
    *) fail "'$WHAT': expected all, dependencies or project" ;;
esac
