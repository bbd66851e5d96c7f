"""Faults that show on a GPU alone: tensors on the wrong device, waits, and what is compiled."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "torch: the mask of a cache is on the CPU",
        "gpt_torch/cache.py::cache_positions",
        "torch.zeros(later.shape, dtype=keys.dtype, device=device)",
        "torch.zeros(later.shape, dtype=keys.dtype)",
    ),
    Fault(
        "torch: a training step waits for its loss",
        "gpt_torch/train.py::train_step",
        "loss.detach()",
        "torch.tensor(loss.item())",
    ),
    Fault(
        "torch: clipping waits for the norm",
        "gpt_torch/optimizer.py::clip_by_global_norm",
        "max_norm > 0",
        "norm > max_norm > 0",
    ),
    Fault(
        "torch: sampling waits to know whether there are ties",
        "gpt_torch/sampling.py::top_k_tokens",
        "logits.is_cuda",
        "False",
    ),
    Fault(
        "torch: seen tokens are on the CPU",
        "gpt_torch/generate.py::prefill",
        "upload(seen_tokens(completions, config.vocab_size), sampling_device(device))",
        "torch.from_numpy(seen_tokens(completions, config.vocab_size))",
    ),
    Fault(
        "torch: seen tokens are on the CPU after a changed token",
        "gpt_torch/generate.py::rewind",
        "upload(seen_tokens(completions, seen.shape[1]), seen.device)",
        "torch.from_numpy(seen_tokens(completions, seen.shape[1]))",
    ),
    Fault(
        "torch: tokens are drawn on the CPU",
        "gpt_torch/generate.py::decode",
        "upload(uniforms, sampling_device(last.device))",
        "torch.from_numpy(uniforms)",
    ),
    Fault(
        "torch: uniform numbers are uploaded one by one, each with a wait",
        "gpt_torch/generate.py::sample_next",
        "sample(logits.to(uniforms.device), uniforms, state.seen, sampling)",
        "sample(logits, uniforms.cpu().to(logits.device), state.seen, sampling)",
    ),
    Fault(
        "torch: a chunk of tokens is copied in three parts",
        "gpt_torch/generate.py::stack",
        "torch.stack(columns).cpu().numpy()",
        "(column.cpu().numpy() for column in columns)",
    ),
    Fault(
        "torch: an upload waits",
        "gpt_torch/device.py::upload",
        "tensor.pin_memory().to(device, non_blocking=True)",
        "tensor.to(device)",
    ),
    Fault(
        "torch: each prompt's length compiles a step",
        "gpt_torch/generate.py::cache_length",
        "round_up(longest, 64)",
        "longest",
    ),
    Fault(
        "torch: the compiled loss reads a number",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        "torch.cat(losses).mean()",
        "torch.tensor(torch.cat(losses).mean().item())",
    ),
    Fault(
        "torch: the loss on a GPU makes all logits at once",
        "gpt_torch/fast.py::choose_fast_ops",
        "FastOps(loss_rows=CUDA_LOSS_ROWS)",
        "FastOps()",
    ),
    Fault(
        "torch: a GPU's softmax is of blocks that fit a CPU's cache",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        'SOFTMAX_ROWS if x.device.type == "cpu" else ops.loss_rows',
        "SOFTMAX_ROWS",
    ),
    Fault(
        "torch: bfloat16 on MPS sees future tokens",
        "gpt_torch/device.py::check_dtype",
        'torch.__version__ < "2.13"',
        'torch.__version__ < "2.12"',
    ),
    Fault(
        "torch: after eight lengths of the cache generation is no longer compiled",
        "gpt_torch/inference.py::InferenceGPT.__init__",
        "torch._dynamo.config.recompile_limit = max(limit, COMPILED_STEPS)",
        "pass",
    ),
    Fault(
        "torch: an AMD GPU is called cuda",
        "gpt_torch/device.py::check_dtype",
        'device_type.replace("cuda", "cuda (ROCm)") if torch.version.hip else device_type',
        "device_type",
    ),
    Fault(
        "torch: tf32 is accepted for an AMD GPU, which ignores it",
        "gpt_torch/device.py::check_dtype",
        'device_type != "cuda" or torch.version.hip is not None',
        'device_type != "cuda"',
    ),
    Fault(
        "flax: cuDNN is asked for an odd number of positions",
        "gpt_flax/fast.py::cudnn_attention",
        "(0, T % 2)",
        "(0, 0)",
    ),
    Fault(
        "flax: a GPU's cuDNN is not asked to attend",
        "gpt_flax/device.py::has_cudnn_attention",
        "return True",
        "return False",
    ),
    Fault(
        "flax: a kernel's gradient is summed in bfloat16 by jax 0.11 on CPUs",
        "gpt_flax/fast.py::choose_fast_ops",
        "native or jax.__version_info__ >= (0, 11)",
        "native",
    ),
    Fault(
        "flax: without cuDNN a GPU attends in the plain way",
        "gpt_flax/fast.py::choose_fast_ops",
        'dtype == "bfloat16" and not cudnn',
        "False",
    ),
    Fault(
        "torch: attention on a GPU has a mask, which no fast kernel takes",
        "gpt_torch/model.py::causal_attention",
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        "F.scaled_dot_product_attention(q, k, v, torch.ones(q.shape[2], q.shape[2]).tril() > 0)",
    ),
)
