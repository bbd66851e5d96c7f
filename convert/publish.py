"""Upload a model to the Hugging Face Hub: `python -m convert SOURCE hf://USER/NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from convert.verify import CpuDtype, Report, VerifyConfig, verify
from gpt_common.checkpoint import Checkpoint
from gpt_common.errors import InputError, reason
from gpt_common.formats import huggingface
from gpt_common.formats.base import Format
from gpt_common.formats.huggingface_hub import NAME
from gpt_common.run import versions
from gpt_common.weights import num_parameters

SCHEME = "hf://"
DTYPES: tuple[CpuDtype, ...] = ("float64", "float32")
# Files of a model that one with other files would leave behind.
REPLACED = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.msgpack"]
REFUSED = "the Hub refuses: hf auth login, with a token that may write"
ANSWERS = {401: REFUSED, 403: REFUSED, 409: "there already; --overwrite replaces it"}
CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- gpt-twins
---

# {name}

A GPT-2 with {layers} layers, {heads} heads, {width} channels, a context of {context} tokens, a
vocabulary of {vocabulary} tokens and {parameters:,} parameters.

```python
from transformers import GPT2LMHeadModel

model = GPT2LMHeadModel.from_pretrained("{repository}")
```

With gpt-twins, in PyTorch or in Flax:

```sh
python -m gpt_torch.generate --init {repository}
python -m gpt_flax.generate --init {repository}
```

## Verification

Before the upload both of gpt-twins' implementations, `gpt_torch` and `gpt_flax`, computed these
weights on {tokens}, on a CPU. The largest relative differences:

| | a layer's output | logits | loss | loss in nats | KL divergence |
| --- | --- | --- | --- | --- | --- |
{rows}

{environment}, {date}. Again: `python -m convert.verify {repository} --dtype float64`.
"""


def repository_of(destination: str) -> str | None:
    """Return `USER/NAME` of `hf://USER/NAME`, or None for a path.

    Raises `InputError` if it is no name that the Hub allows.
    """
    if not destination.startswith(SCHEME):
        return None
    name = destination.removeprefix(SCHEME)
    if not NAME.fullmatch(name) or "/" not in name:
        raise InputError(f"expected {SCHEME}USER/NAME, got {destination}")
    return name


def upload_format(name: str | None) -> Format:
    """Return the format to upload: a folder that transformers opens, without a run's state.

    Raises `InputError` for any other format.
    """
    forms = {form.name: form for form in huggingface.FORMATS}
    target = forms.get(name or "huggingface")
    if target is None:
        raise InputError(f"{SCHEME}: expected --to {', '.join(forms)}, got {name}")
    return replace(target, keeps_training=False)


def check_repository(repository: str, overwrite: bool) -> None:
    """Raise `InputError` for what the Hub would refuse after a verification, which takes a minute.

    That is a missing or wrong token, or without `overwrite` a repository that exists.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with hub_errors(repository):
        hub.whoami()
        exists = not overwrite and hub.repo_exists(repository)
    if exists:
        raise InputError(f"{SCHEME}{repository}: {ANSWERS[409]}")


def publish(
    repository: str, target: Format, overwrite: bool, private: bool, checkpoint: Checkpoint
) -> None:
    """Verify a model, then upload it with a card that has the figures.

    Raises `InputError` if the twins disagree, if the repository exists without `overwrite`, or if
    the Hub refuses.
    """
    assert target.write is not None
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        target.write(folder, checkpoint)
        card = model_card(repository, checkpoint, verified(folder))
        (folder / "README.md").write_text(card)
        with hub_errors(repository):
            upload(repository, folder, overwrite, private)


def verified(folder: Path) -> list[Report]:
    """Return the comparison of both twins in each dtype. Raises `InputError` if they disagree."""
    reports = [verify(VerifyConfig(str(folder), dtype=dtype)) for dtype in DTYPES]
    for report in reports:
        if first := report.comparisons[0].first_difference:
            raise InputError(
                f"not uploaded: in {report.config.dtype} the twins differ, first in {first.name}"
            )
    return reports


def model_card(repository: str, checkpoint: Checkpoint, reports: Sequence[Report]) -> str:
    """Return the README.md of the repository, with the figures of the verification."""
    config = checkpoint.config
    packages = versions(("torch", "jax", "flax", "numpy")).items()
    return CARD.format(
        name=repository.partition("/")[2],
        repository=repository,
        layers=config.n_layer,
        heads=config.n_head,
        width=config.n_embd,
        context=config.block_size,
        vocabulary=config.vocab_size,
        parameters=num_parameters(config),
        tokens=reports[0].tokens,
        rows="\n".join(card_row(report) for report in reports),
        environment=", ".join(f"{name} {version}" for name, version in packages),
        date=date.today().isoformat(),
    )


def card_row(report: Report) -> str:
    """Return the largest relative differences of a comparison, as a row of the card's table."""
    comparison = report.comparisons[0]
    *layers, logits = (difference.relative for difference in comparison.layers)
    figures = [f"{each:.1e}" for each in (max(layers), logits, comparison.loss.relative)]
    figures += [f"{comparison.losses[0]:.6f}", f"{comparison.kl_divergence:.1e}"]
    return f"| {report.config.dtype} | {' | '.join(figures)} |"


def upload(repository: str, folder: Path, overwrite: bool, private: bool) -> None:
    """Create the repository, unless it may be there, and upload a folder in one commit."""
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=overwrite)
    hub.upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message="Upload a model verified by gpt-twins",
        delete_patterns=REPLACED if overwrite else None,
    )


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Raise what the Hub answers, or why it does not, as an `InputError` of one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(f"{SCHEME}{repository}: no token; hf auth login") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        answer = ANSWERS.get(status, f"the Hub answers {status}: {reason(error)}")
        raise InputError(f"{SCHEME}{repository}: {answer}") from None
    except Exception as error:  # by the network, in any library's words
        raise InputError(f"{SCHEME}{repository}: no upload ({reason(error)})") from None
