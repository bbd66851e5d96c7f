"""Models on the Hugging Face Hub, such as `gpt2` or `openai-community/gpt2-xl`."""

import re
from pathlib import Path

from gpt_common.errors import InputError, reason

NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
FILE_ENDINGS = (".pt", ".pth", ".bin", ".msgpack", ".safetensors", ".json")
# In order of preference.
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*", "flax_model.msgpack")


def download(name: str) -> Path:
    """Return the folder of a model in the Hub's cache, downloaded on first use.

    Raises `InputError` if there is neither such a path nor such a model, or no network.
    """
    if not NAME.fullmatch(name) or name.endswith(FILE_ENDINGS):
        raise InputError(f"{name}: no such file or folder")
    from huggingface_hub import snapshot_download

    try:
        for pattern in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=["config.json", pattern]))
            if any(folder.glob(pattern)):
                return folder
    except Exception as error:  # by the network, the Hub, or the disk
        raise InputError(
            f"{name}: no such file or folder, and no download from the Hugging Face Hub "
            f"({reason(error)}); without network, put its config.json and model.safetensors "
            f"into a folder and give its path"
        ) from None
    raise InputError(f"{name}: expected weights on the Hub, got a model without: {WEIGHTS}")
