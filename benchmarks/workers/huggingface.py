"""transformers' GPT2LMHeadModel, trained and sampled as in its documentation.

Settings that differ from the library's defaults: `attention` ("sdpa" or "eager"), `padded` (a
vocabulary of 50304), `fused` (AdamW in one kernel), `static_cache` (in generation).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.spec import Spec
from benchmarks.workers import torch_tools as tools
from gpt_common.config import OptimizerOptions
from gpt_torch.train import to_device


def build(spec: Spec) -> tuple[GPT2LMHeadModel, torch.device]:
    """Return a randomly initialised model, and the device that it is on."""
    device = tools.select_device(spec.device, spec.dtype)
    shape, padded = spec.model, spec.settings.get("padded", False)
    config = GPT2Config(
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        n_positions=shape.block_size,
        vocab_size=shape.padded_vocab_size if padded else shape.vocab_size,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation=spec.settings.get("attention", "sdpa"),
    )
    model = GPT2LMHeadModel(config).to(device)
    return (model.double() if spec.dtype == "float64" else model), device


def create_optimizer(model: GPT2LMHeadModel, fused: bool | None) -> torch.optim.AdamW:
    """Return torch's AdamW; if `fused` is None, torch chooses the implementation."""
    options = OptimizerOptions()
    return torch.optim.AdamW(
        model.parameters(),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
        fused=fused,
    )


def training(spec: Spec) -> Callable[[], Tensor]:
    """Return a function that starts a training step on the next batch and returns its loss."""
    model, device = build(spec)
    optimizer, loader = create_optimizer(model, spec.settings.get("fused")), spec.loader()
    forward = torch.compile(model) if spec.compile else model

    def autocast() -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16, enabled=spec.dtype == "bfloat16")

    def step() -> Tensor:
        tokens = to_device(loader.next_batch()[0], device)
        with autocast():
            loss = forward(input_ids=tokens, labels=tokens).loss  # it shifts the labels itself
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def generation(spec: Spec) -> Callable[[list[int], int, int], list[list[int]]]:
    """Return a function that continues a batch of one prompt, with the key-value cache."""
    model, device = build(spec)
    model.eval()
    if spec.dtype == "bfloat16":  # as `from_pretrained(dtype=...)` would load it
        model.bfloat16()
    model.generation_config.eos_token_id = None  # no sequence ends early
    cache = {"cache_implementation": "static"} if spec.settings.get("static_cache") else {}

    def continue_prompt(prompt: list[int], batch_size: int, new_tokens: int) -> list[list[int]]:
        batch = torch.tensor([prompt] * batch_size, device=device)
        options = {"max_new_tokens": new_tokens, "do_sample": True, "top_k": 50, "pad_token_id": 0}
        mask = torch.ones_like(batch)
        return model.generate(batch, attention_mask=mask, **options, **cache).tolist()

    return continue_prompt
