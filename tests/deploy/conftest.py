"""For the helpers in the files beside this one."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
