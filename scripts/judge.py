"""`mobilellm judge` from a clone, with the same arguments."""

import sys
from pathlib import Path

# Modules of this folder must not hide others, such as `import` or `compare`.
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.commands.judge import main

if __name__ == "__main__":
    main()
