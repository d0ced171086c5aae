import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# No test may try to download anything.
os.environ["DNAS_OFFLINE"] = "1"
