#!/usr/bin/env bash
# Installs the agent from a folder of wheels into its own virtual environment, without network.
#
# ONEKE_WHEELS  folder with the wheel of oneke-agent and of everything it depends on
#               (default: /run/oneke-build/wheels)
set -euo pipefail

readonly WHEELS=${ONEKE_WHEELS:-/run/oneke-build/wheels}
readonly PREFIX=/opt/oneke
readonly SHARE=$PREFIX/share/oneke
readonly UNITS=/etc/systemd/system
readonly PRESETS=/usr/lib/systemd/system-preset

shopt -s nullglob dotglob

agent_wheels=("$WHEELS"/oneke_agent-*.whl)
if [[ ${#agent_wheels[@]} -ne 1 ]]; then
    echo "80-agent: expected one oneke_agent-*.whl in $WHEELS, found ${#agent_wheels[@]}" >&2
    exit 1
fi

# The environment gets no pip of its own: an image is replaced, not upgraded in place, and what is not
# there can not be misused. The wheel of pip that python3-venv ships does the installation once.
pip_wheels=(/usr/share/python-wheels/pip-*.whl)
if [[ ${#pip_wheels[@]} -eq 0 ]]; then
    echo "80-agent: no pip wheel in /usr/share/python-wheels; install python3-venv first" >&2
    exit 1
fi
python3 -m venv --clear --without-pip "$PREFIX"
PYTHONPATH=${pip_wheels[0]} PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$PREFIX/bin/python" -m pip install --quiet --no-cache-dir --no-compile --root-user-action=ignore \
    --no-index --find-links "$WHEELS" "${agent_wheels[0]}"
# The agent runs at every boot and a first run would not keep the byte code: compile it now.
"$PREFIX/bin/python" -m compileall -q "$PREFIX/lib"

install -d -m 0755 /usr/local/bin /usr/share /etc/oneke/service.d
install -d -m 0700 /var/lib/oneke
ln -sfnT "$PREFIX/bin/oneke-agent" /usr/local/bin/oneke-agent
ln -sfnT "$SHARE" /usr/share/oneke

# Copies, not links: disabling a linked unit removes it.
units=("$SHARE"/systemd/*)
if [[ ${#units[@]} -gt 0 ]]; then
    cp -R --no-preserve=ownership "${units[@]}" "$UNITS/"
    chmod -R u=rwX,go=rX "${units[@]/#$SHARE\/systemd/$UNITS}"
fi
# Presets are read from a folder of their own.
presets=("$UNITS"/*.preset)
if [[ ${#presets[@]} -gt 0 ]]; then
    install -d -m 0755 "$PRESETS"
    mv -f "${presets[@]}" "$PRESETS/"
fi
if [[ -e $UNITS/oneke.target ]]; then
    systemctl --quiet enable oneke.target
else
    echo "80-agent: the wheel carries no oneke.target: nothing is enabled" >&2
fi
