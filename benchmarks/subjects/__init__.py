"""One module a program, and the only place that knows how the program is called.

`training(spec)` returns a function that starts a training step on the next batch and returns its
loss, not waited for. `generation(spec)` returns one that continues `batch_size` rows of a prompt by
`new_tokens` tokens and returns them once they are there. `tools` is the framework's clock.
"""
