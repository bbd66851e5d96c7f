"""The guide on porting a model: its code runs, in its order, and what it claims holds."""

from tests.conftest import kept_jax_config
from tests.pages import ROOT, blocks

GUIDE = ROOT / "docs/porting.md"


def test_the_code_of_the_guide():
    codes = [block.code for block in blocks(GUIDE) if block.language == "python"]
    assert len(codes) >= 8
    names: dict[str, object] = {}
    with kept_jax_config():
        for code in codes:
            exec(compile(code, str(GUIDE), "exec"), names)
