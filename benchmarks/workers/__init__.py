"""What runs in worker processes; each implementation has one module, which `session` serves.

`training(spec)` returns a function that starts a training step on the next batch and returns its
loss without synchronizing. `generation(spec)` returns a function that continues a prompt by
`new_tokens` tokens in a batch of `batch_size` sequences and returns the tokens. `tools` measures
time and memory in its framework.
"""
