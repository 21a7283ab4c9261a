"""The service as an operator instantiates it from the templates that the agent publishes."""

from __future__ import annotations

import json

from appliance.decision import read_services
from appliance.imagecontent import Flavor
from appliance.opennebula import TEMPLATES
from appliance.options import Options
from tests.lab.context import PRIVATE, PUBLIC
from tests.lab.oneflow.published import read_published
from tests.lab.oneflow.template import ServiceTemplate

# Ids of the networks in the answers.
NETWORKS = {"0": PUBLIC.name, "1": PRIVATE.name}


def published_template(form: str = "oneflow", **answers: str) -> ServiceTemplate:
    """Load service and VM templates, and instantiate them with their own answers but for these.

    Args:
        form: `oneflow`, or `oneflow-7` for that of OpenNebula 7.
        answers: Other answers by name.
    """
    services = read_services(Options()).values()
    service = json.loads(TEMPLATES[form](services, None, Flavor.CE))
    values = json.loads(TEMPLATES["oneflow-values"](services, None, Flavor.CE))
    for name in ("custom_attrs_values", "user_inputs_values"):
        values[name] |= answers
    roles = [role["name"] for role in service["roles"]]
    vm_templates = [TEMPLATES["vm-template"](services, role, Flavor.CE) for role in roles]
    return read_published(service, vm_templates, values, NETWORKS)
