"""Hugging Face's last Flax GPT-2, for an environment with it; imports nothing of this project.

python -m venv peer
peer/bin/pip install 'transformers<5' 'flax<0.11' 'jax<0.7' optax
python -m benchmarks.train_step --flax_peer_python peer/bin/python

It answers the same requests as `benchmarks.workers.session`, but for those of the peaks.
"""

import json
import os
import sys
import time
import traceback
from functools import partial
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import FlaxGPT2LMHeadModel, GPT2Config

DTYPES = {"bfloat16": jnp.bfloat16, "float64": jnp.float64}


class Session:
    """The model, its training and its generation, as in transformers' own Flax examples."""

    def train(self, spec: dict) -> dict:
        """Build model and optimizer and run the first step, which compiles."""
        started = time.perf_counter()
        self._build(spec)
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(3e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1),
        )
        params = jax.tree.map(jnp.array, self._model.params)  # the step donates its buffers
        self._state = params, self._optimizer.init(params)
        self._update = jax.jit(self._train_step, donate_argnums=0)
        self._position = 0
        built = time.perf_counter()
        first = self.steps(1)
        return {
            "setup_seconds": built - started,
            "first_step_seconds": first["seconds"][0],
            "loss": first["loss"],
            "device": self._device,
            "versions": {p: metadata.version(p) for p in ("transformers", "flax", "jax", "optax")},
        }

    def _build(self, spec: dict) -> None:
        if spec["device"] == "cpu":
            jax.config.update("jax_platforms", "cpu")
        if spec["dtype"] == "float64":
            jax.config.update("jax_enable_x64", True)
        precision = "tensorfloat32" if spec["dtype"] == "tf32" else "highest"
        jax.config.update("jax_default_matmul_precision", precision)
        shape = spec["model"]
        config = GPT2Config(
            n_layer=shape["n_layer"],
            n_head=shape["n_head"],
            n_embd=shape["n_embd"],
            n_positions=shape["block_size"],
            vocab_size=shape["vocab_size"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        dtype = DTYPES.get(spec["dtype"], jnp.float32)
        self._model = FlaxGPT2LMHeadModel(config, seed=0, dtype=dtype)
        platform = jax.devices()[0].platform
        self._device = "cuda" if platform == "gpu" else platform
        self._spec = spec
        self._continue = {}

    def _train_step(self, state: tuple, tokens: jax.Array) -> tuple:
        params, opt_state = state

        def loss_fn(params: dict) -> jax.Array:
            logits = self._model(tokens, params=params).logits[:, :-1].astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean()

        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = self._optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def _next_batch(self) -> np.ndarray:
        corpus = np.load(self._spec["tokens"], mmap_mode="r")
        shape = self._spec["batch_size"], self._spec["seq_len"]
        size = shape[0] * shape[1]
        if self._position + size + 1 > len(corpus):
            self._position = 0
        window = corpus[self._position : self._position + size].astype(np.int32)
        self._position += size
        return window.reshape(shape)

    def steps(self, count: int) -> dict:
        """Run `count` steps; return the seconds of each and the last loss."""
        overlap = int(self._device != "cpu")  # on a GPU a loss is read one step later
        losses, marks = [], [time.perf_counter()]
        for started in range(1, count + 1):
            self._state, loss = self._update(self._state, self._next_batch())
            losses.append(loss)
            if started > overlap:
                float(losses[started - 1 - overlap])
                marks.append(time.perf_counter())
        loss = float(losses[-1])
        if overlap:
            marks.append(time.perf_counter())
        return {"seconds": np.diff(marks).tolist(), "loss": loss}

    def load(self, spec: dict) -> dict:
        """Build a model for generation."""
        started = time.perf_counter()
        self._build(spec)
        return {"setup_seconds": time.perf_counter() - started, "device": self._device}

    def generate(self, prompt: list, batch_size: int, new_tokens: int) -> dict:
        """Continue a batch of the same prompt; return the seconds and a sequence's length."""
        started = time.perf_counter()
        if new_tokens not in self._continue:
            # Compiled here: `generate` alone traces and compiles at every call.
            options = {"max_new_tokens": new_tokens, "do_sample": True, "top_k": 50}
            no_token = self._spec["model"]["vocab_size"]  # so that no sequence ends early
            options |= {"pad_token_id": 0, "eos_token_id": no_token}
            self._continue[new_tokens] = jax.jit(partial(self._model.generate, **options))
        batch = jnp.array([prompt] * batch_size)
        answer = self._continue[new_tokens](batch, params=self._model.params)
        sequences = np.asarray(answer.sequences)
        return {"seconds": time.perf_counter() - started, "length": sequences.shape[1]}

    def memory(self) -> int:
        """Return the peak memory in bytes: the GPU's, or the process's on a CPU."""
        if self._device == "cuda":
            return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        status = Path("/proc/self/status")
        if not status.is_file():
            return 0
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])


def main() -> None:
    """Answer requests until standard input ends. Other output is sent to standard error."""
    session = Session()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(session, request["call"])(**request["arguments"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
