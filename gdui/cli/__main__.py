"""`python -m gdui.cli`, the same as `gdui`."""

import sys

from gdui.cli.main import main

sys.exit(main())
