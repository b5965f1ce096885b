"""`python -m archbench_predict` is `archbench-predict`."""

import sys

from archbench_predict.command_line import main

if __name__ == "__main__":
    sys.exit(main())
