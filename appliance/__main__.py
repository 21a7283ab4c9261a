"""`python -m appliance` is `oneke-agent`."""

import sys

from appliance.cli import main

sys.exit(main())
