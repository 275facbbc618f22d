"""``python -m meta_train``: the command line, for ``torchrun -m meta_train``."""

import sys

from meta_train.cli import main

sys.exit(main())
