#!/usr/bin/env bash
# Installs the agent from a folder of wheels into its own virtual environment, without network. Wheels that are
# not in the lock, or differ from it, are refused.
#
# ONEKE_WHEELS  folder with the agent's wheel, those of all it depends on, and requirements.lock
#               (default: /run/oneke-build/wheels; packer/wheels.sh makes it)
# DESTDIR       puts everything below this folder and enables nothing, for a package (default: none)
set -euo pipefail

readonly WHEELS=${ONEKE_WHEELS:-/run/oneke-build/wheels}
readonly DESTDIR=${DESTDIR-}
readonly PREFIX=/opt/oneke
readonly SHARE=$PREFIX/share/oneke
readonly UNITS=/usr/lib/systemd/system
readonly PRESETS=/usr/lib/systemd/system-preset
# Written last: an installation that was cut has none.
readonly STAMP=$DESTDIR$PREFIX/installed-from
readonly PYTHON=/usr/bin/python3

shopt -s nullglob dotglob

agent_wheels=("$WHEELS"/oneke_agent-*.whl)
if [[ ${#agent_wheels[@]} -ne 1 ]]; then
    echo "80-agent: expected one oneke_agent-*.whl in $WHEELS, found ${#agent_wheels[@]}" >&2
    exit 1
fi

# What the environment is made of: the same again is left as it is.
describe_inputs() {
    "$PYTHON" --version
    (cd "$WHEELS" && sha256sum -- *)
}

# The environment gets no pip of its own: an image is replaced, not upgraded in place, and what is not there
# can not be misused. The wheel of pip that python3-venv ships does the installation once.
install_environment() {
    local pip_wheels=(/usr/share/python-wheels/pip-*.whl)
    if [[ ${#pip_wheels[@]} -eq 0 ]]; then
        echo "80-agent: no pip wheel in /usr/share/python-wheels; install python3-venv first" >&2
        exit 1
    fi
    # The charts that the image carries live beside the drop-ins; they are not the wheel's.
    local charts=$DESTDIR$SHARE/charts kept=$DESTDIR/opt/.oneke-charts
    if [[ -d $charts ]]; then
        mv -T "$charts" "$kept"
    fi
    "$PYTHON" -m venv --clear --without-pip "$DESTDIR$PREFIX"
    local pip=("$DESTDIR$PREFIX/bin/python" -m pip install --quiet --no-cache-dir --no-compile --no-index --no-deps
        --root-user-action=ignore --no-warn-script-location)
    export PYTHONPATH=${pip_wheels[0]} PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    env --unset=PIP_FIND_LINKS "${pip[@]}" --find-links "$WHEELS" --require-hashes \
        --requirement "$WHEELS/requirements.lock"
    env --unset=PIP_FIND_LINKS "${pip[@]}" "${agent_wheels[0]}"
    unset PYTHONPATH
    if [[ -d $kept ]]; then
        mv -T "$kept" "$charts"
    fi
    # What pip notes about where the wheel lay, and programs of the environment and of libraries that nobody calls.
    rm -f "$DESTDIR$PREFIX"/lib/python3*/site-packages/oneke_agent-*.dist-info/direct_url.json
    rm -rf "$DESTDIR$PREFIX"/include
    find "$DESTDIR$PREFIX/bin" -type f -not -name oneke-agent -delete
    sed -i '\|^[./]*/bin/|d; \|/direct_url.json,|d' "$DESTDIR$PREFIX"/lib/python3*/site-packages/*.dist-info/RECORD
    if [[ -n $DESTDIR ]]; then
        sed -i "s|$DESTDIR||g" "$DESTDIR$PREFIX"/pyvenv.cfg "$DESTDIR$PREFIX"/bin/oneke-agent
    fi
    # The agent runs at every boot and a first run would not keep the byte code: compile it now. Byte code that
    # never looks at its source again is the same whenever it was made.
    "$PYTHON" -m compileall -q --invalidation-mode unchecked-hash ${DESTDIR:+-s "$DESTDIR" -p /} \
        "$DESTDIR$PREFIX/lib"
}

inputs=$(describe_inputs)
if [[ $(cat "$STAMP" 2>/dev/null) != "$inputs" ]]; then
    rm -f "$STAMP"
    install_environment
    printf '%s\n' "$inputs" > "$STAMP"
fi

install -d -m 0755 "$DESTDIR"/usr/local/bin "$DESTDIR"/usr/share "$DESTDIR"/etc/oneke/service.d
install -d -m 0700 "$DESTDIR"/var/lib/oneke
ln -sfnT "$PREFIX/bin/oneke-agent" "$DESTDIR/usr/local/bin/oneke-agent"
ln -sfnT "$SHARE" "$DESTDIR/usr/share/oneke"

# Copies, not links: disabling a linked unit removes it.
install -d -m 0755 "$DESTDIR$UNITS" "$DESTDIR$PRESETS"
for unit in "$DESTDIR$SHARE"/systemd/*; do
    target=$DESTDIR$UNITS
    if [[ $unit == *.preset ]]; then
        target=$DESTDIR$PRESETS
    fi
    cp -R --no-preserve=ownership "$unit" "$target/"
    chmod -R u=rwX,go=rX "$target/${unit##*/}"
done

if [[ -n $DESTDIR ]]; then
    exit 0
fi
if [[ -e $UNITS/oneke.target ]]; then
    # Debian makes host keys only when openssh-server is installed, so a VM needs them made at boot.
    systemctl --quiet enable oneke.target oneke-ssh-host-keys.service
else
    echo "80-agent: the wheel carries no oneke.target: nothing is enabled" >&2
fi
