"""The code of the texts."""

import re
from pathlib import Path


def python_blocks(page: Path) -> list[str]:
    """What stands between ```python and ```."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
