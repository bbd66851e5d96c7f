"""The guide on porting a model: its code runs, in its order, and what it claims holds."""

import re
from pathlib import Path

from tests.conftest import kept_jax_config

GUIDE = Path(__file__).parent.parent / "docs/porting.md"


def test_the_code_of_the_guide():
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    with kept_jax_config():
        for block in blocks:
            exec(compile(block, str(GUIDE), "exec"), names)
