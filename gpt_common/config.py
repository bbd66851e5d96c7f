"""The model's shape (`GPTConfig`) and the command-line options that both twins share.

A field of an options dataclass is a flag, its docstring the flag's help, a nested dataclass a group
in `--help`. `gpt_common.cli` parses the command line into them. Choices are one `Literal`, None
included: tyro lists those of a union in an order that changes with each run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from gpt_common.errors import (
    FLOAT32_MAX,
    InputError,
    brief,
    require_fraction,
    require_not_negative,
    require_positive,
)

T = TypeVar("T")

Activation = Literal["gelu_new", "gelu"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Dtype = Literal["float32", "tf32", "bfloat16", "float16", "float64"]
DtypeOption = Literal["auto", Dtype]
HellaSwagProtocol = Literal["build-nanogpt", "lm-eval"]
Preset = Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "shakespeare", "tiny"]
Recipe = Literal["gpt2_124m", "gpt2_350m", "gpt2_774m", "gpt2_1558m"]

LAYER_NORM_EPSILON = 1e-5
MAX_LAYERS = 1000  # of a new model: more take hours to build and compile
DEFAULT_LENGTH = 30  # the lecture's
VOCAB_MULTIPLE = 64  # pads 50257 to 50304, which GPUs multiply faster


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2: pre-LayerNorm blocks, learned positions, tied head.

    `activation` is `gelu_new` (the tanh approximation, as in GPT-2) or `gelu` (with erf). `bias`
    applies to linear layers and norms.
    Raises `InputError` if a size is not positive or `n_embd` is not divisible by `n_head`.
    """

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50257
    activation: Activation = "gelu_new"
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
            require_positive(name, getattr(self, name))
        if self.n_embd % self.n_head:
            raise InputError(
                f"n_embd must be divisible by n_head, got n_embd {self.n_embd}, "
                f"n_head {self.n_head}"
            )
        if self.activation not in get_args(Activation):
            raise InputError(
                f"activation must be one of {', '.join(get_args(Activation))}, "
                f"got {brief(self.activation)}"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token embedding in memory: `vocab_size` rounded up to a multiple of 64."""
        return round_up(self.vocab_size, VOCAB_MULTIPLE)


def round_up(number: int, multiple: int) -> int:
    """Return `number` rounded up to a multiple of `multiple`."""
    return -(-number // multiple) * multiple


PRESETS: dict[Preset, GPTConfig] = {
    "gpt2": GPTConfig(),  # 124,439,808 parameters
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),  # 354,823,168
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),  # 774,030,080
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),  # 1,557,611,200
    "shakespeare": GPTConfig(n_layer=6, n_head=5, n_embd=160, block_size=256),  # 9,938,080
    "tiny": GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=64),  # 404,328
}


def _hint(metavar: str, default: str) -> Any:
    """Return how `--help` shows a flag and its default if that is None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def _require_with(options: Any, source: str, names: tuple[str, ...]) -> None:
    """Raise `InputError` for an option that has no effect, as its `source` is not given."""
    if getattr(options, source) is not None:
        return
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if option.name in names and value != option.default:
            raise InputError(f"{option.name}: expected --{source} with it, got {value} without")


_Size = Annotated[int | None, _hint("INT", "the preset's")]
_Length = Annotated[int | None, _hint("INT", "none")]


@dataclass(frozen=True)
class ModelOptions:
    """The model and its initial weights."""

    recipe: Annotated[
        Literal[Recipe, None], _hint("{gpt2_124m,gpt2_350m,gpt2_774m,gpt2_1558m}", "none")
    ] = None
    """Train GPT-2 of a size on FineWeb-Edu: the defaults of all other flags (gpt_common/recipes.py)
    for the data of `python -m gpt_common.prepare fineweb-edu-10b data/fineweb-edu-10b`. Expect of
    gpt2_124m a validation loss below 3.29 and a HellaSwag accuracy above 0.2955."""
    preset: Preset = "gpt2"
    """Named sizes; each flag below overrides one."""
    n_layer: _Size = None
    """Number of transformer blocks."""
    n_head: _Size = None
    """Attention heads in each block."""
    n_embd: _Size = None
    """Embedding size; divisible by n_head."""
    block_size: _Size = None
    """Context length: the longest sequence, in tokens."""
    vocab_size: _Size = None
    """Vocabulary size."""
    activation: Annotated[Literal[Activation, None], _hint("{gelu_new,gelu}", "the preset's")] = (
        None
    )
    """gelu_new is GPT-2's tanh approximation, gelu the exact form with erf."""
    bias: Annotated[Literal[True, False, None], _hint("{True,False}", "the preset's")] = None
    """Whether linear layers and norms have biases."""
    init: Annotated[str, tyro.conf.arg(metavar="scratch|PATH|NAME")] = "scratch"
    """Initialize from random weights (scratch) or from a model, which sets the sizes too: a
    checkpoint, or a name on the Hugging Face Hub such as gpt2."""

    def overrides(self) -> dict[str, int | str]:
        """Return the fields of `GPTConfig` that were given as flags."""
        names = [f.name for f in dataclasses.fields(GPTConfig)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def gpt_config(self) -> GPTConfig:
        """Return the preset with its overrides. Raises `InputError` if they are invalid."""
        if (self.n_layer or 0) > MAX_LAYERS:
            raise InputError(f"n_layer must be at most {MAX_LAYERS}, got {self.n_layer}")
        return dataclasses.replace(PRESETS[self.preset], **self.overrides())  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataOptions:
    """The training data and its batches."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "shakespeare"
    """shakespeare (bundled), tiny_shakespeare, or a path: a text file, .npy or .bin tokens, or a
    folder of these, such as that of gpt_common.prepare; in a folder, files with train and val in
    their names are the two splits."""
    val_fraction: float = 0.1
    """Fraction of the tokens, at the end, for validation if no file is named val."""
    batch_size: int = 4
    """Sequences per batch (B), those of all processes."""
    seq_len: int = 32
    """Tokens per sequence (T)."""
    shuffle: bool = False
    """Shuffle the sequences anew in each epoch, by --seed; else they are read in order."""
    overfit_batch: bool = False
    """Train on the first batch only, to overfit it."""

    def __post_init__(self) -> None:
        require_fraction("val_fraction", self.val_fraction)
        require_positive("batch_size", self.batch_size)
        require_positive("seq_len", self.seq_len)


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW and its learning rate."""

    steps: int = 50
    """Number of updates in the whole run, those before --resume included."""
    grad_accum: Annotated[int | None, _hint("INT", "1")] = None
    """Gradient accumulation: batches per update."""
    total_batch_tokens: Annotated[int | None, _hint("INT", "grad_accum batches")] = None
    """Tokens per update, in place of grad_accum: a multiple of batch_size x seq_len."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    min_lr: float = 3e-5
    """Final learning rate of the cosine schedule."""
    warmup_steps: int = 0
    """Number of linear warmup steps."""
    warmup_peak: Literal["last", "next"] = "last"
    """First step at the peak learning rate: the last warmup step, or, as in nanoGPT, the next."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Schedule after the warmup."""
    lr_decay_steps: Annotated[int | None, _hint("INT", "steps")] = None
    """Step at which the cosine schedule ends; after it the learning rate is min_lr."""
    beta1: float = 0.9
    """AdamW's decay rate of the first moment."""
    beta2: float = 0.95
    """AdamW's decay rate of the second moment."""
    eps: float = 1e-8
    """AdamW's term added to the denominator."""
    weight_decay: float = 0.1
    """Weight decay of matrices and embeddings; biases and norms have none."""
    grad_clip: float = 1.0
    """Maximum global gradient norm; 0 disables clipping."""

    def __post_init__(self) -> None:
        for name in ("steps", "eps"):
            require_positive(name, getattr(self, name))
        for name in ("grad_accum", "total_batch_tokens", "lr_decay_steps"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if self.grad_accum is not None and self.total_batch_tokens is not None:
            raise InputError(
                f"expected grad_accum or total_batch_tokens, got both: {self.grad_accum} and "
                f"{self.total_batch_tokens}"
            )
        for name in ("learning_rate", "min_lr", "warmup_steps", "weight_decay", "grad_clip"):
            require_not_negative(name, getattr(self, name))
        require_fraction("beta1", self.beta1)
        require_fraction("beta2", self.beta2)


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, precision and seed."""

    device: Device = "auto"
    """auto selects cuda, else mps (PyTorch only), else cpu."""
    dtype: DtypeOption = "auto"
    """auto selects bfloat16 on a GPU that supports it, else float32. tf32 (cuda), bfloat16 and
    float16 apply to matrix products only; the rest is float32. float16, for GPUs without bfloat16
    such as a T4, trains with dynamic loss scaling. float64 applies to everything."""
    compile: bool = False
    """Compile the PyTorch model with torch.compile; Flax is always compiled."""
    fast_ops: bool = True
    """Use optimized operations for this hardware; --no_fast_ops uses the reference ones."""
    seed: int = 1337
    """Random seed of the initial weights, of --shuffle and of the samples."""

    def __post_init__(self) -> None:
        require_not_negative("seed", self.seed)


@dataclass(frozen=True)
class ParallelOptions:
    """Training on several devices."""

    parallel: Literal["none", "ddp", "fsdp"] = "ddp"
    """ddp: each device has all parameters. fsdp: each has a part of them, and of the moments. none:
    one device, although Flax sees more."""
    mesh: Annotated[tuple[int, int] | None, _hint("DATA FSDP", "all devices in one axis")] = None
    """Copies of the parameters, and devices that share a copy, such as 2 4 for two hosts of four
    GPUs: both at once, in place of --parallel."""
    gpus: Annotated[tuple[int, str] | None, _hint("N NAME", "the devices that are here")] = None
    """For --dry_run: plan for so many GPUs of this name, such as 256 H100, none of which need be
    here."""
    timeout: float = 600.0
    """Seconds after which a run ends if one of its processes makes no step."""

    def __post_init__(self) -> None:
        require_positive("timeout", self.timeout)
        if self.gpus:
            require_positive("gpus", self.gpus[0])
        for size in self.mesh or ():
            require_positive("mesh", size)


@dataclass(frozen=True)
class OutputOptions:
    """Logging, evaluation and checkpoints."""

    out_dir: Annotated[str | None, _hint("PATH", "runs/DATE-TIME-FRAMEWORK")] = None
    """Folder of the run, for log.jsonl and the checkpoints."""
    resume: Annotated[str | None, _hint("PATH|auto", "a new run")] = None
    """Resume a run: its folder (from the latest checkpoint) or one of its checkpoint folders. auto:
    the run in --out_dir if it has a checkpoint, else a new one, so that a command can be repeated
    until the run is done."""
    log_every: int = 1
    """Steps between log lines on the console; log.jsonl has every step."""
    eval_every: int = 50
    """Steps between evaluations; 0 disables them."""
    eval_steps: int = 10
    """Validation batches per evaluation."""
    hellaswag: Annotated[str | None, _hint("val|PATH", "none")] = None
    """At each evaluation also HellaSwag by build-nanogpt's protocol: val (downloaded once) or a
    .jsonl file like it."""
    sample_every: int = 0
    """Steps between generated samples; 0 samples after the last step only."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 saves after the last step only."""
    keep_last: int = 0
    """Number of newest checkpoints to keep; 0 keeps all. The last one counts once the step after it
    had a finite loss."""
    tensorboard: bool = False
    """Write what log.jsonl has for TensorBoard, too, in the run's folder."""
    wandb: bool = False
    """Send what log.jsonl has to Weights & Biases, too."""
    trackio: bool = False
    """Send what log.jsonl has to Trackio, too."""
    dry_run: bool = False
    """Only print what the run would take: memory, communication, FLOPs, tokens and hours. Exit code
    2 if it does not fit the device."""
    mfu: float = 0.4
    """Share of the GPU's peak FLOP/s for the hours of --dry_run (model FLOPs utilisation)."""
    new_data: tyro.conf.SuppressFixed[tyro.conf.Fixed[bool]] = False
    """Not a flag: whether `--data` was given with `--resume` and may name other data."""

    def __post_init__(self) -> None:
        require_positive("log_every", self.log_every)
        require_positive("eval_steps", self.eval_steps)
        require_positive("mfu", self.mfu)
        for name in ("eval_every", "sample_every", "checkpoint_every", "keep_last"):
            require_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class TrainConfig:
    """Train a GPT-2; `gpt_torch.train` and `gpt_flax.train` take the same flags.

    python -m gpt_torch.train --init gpt2 --data my_text.txt --out_dir runs/mine

    python -m gpt_flax.train --resume runs/mine --steps 200
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @property
    def grad_accum(self) -> int:
        """The number of batches per update. Raises `InputError` if it is not a whole number."""
        total, data = self.optimizer.total_batch_tokens, self.data
        if total is None:
            return self.optimizer.grad_accum or 1
        if total % (data.batch_size * data.seq_len):
            raise InputError(
                f"total_batch_tokens: expected a multiple of batch_size {data.batch_size} x "
                f"seq_len {data.seq_len} = {data.batch_size * data.seq_len}, got {total}"
            )
        return total // (data.batch_size * data.seq_len)

    @property
    def notes(self) -> list[str]:
        """A note on each flag that has no effect with the others."""
        options = self.optimizer
        given = {
            "min_lr": options.min_lr != OptimizerOptions.min_lr,
            "lr_decay_steps": options.lr_decay_steps is not None,
        }
        unused = [name for name in given if given[name] and options.lr_schedule == "constant"]
        notes = [f"--{name} has no effect: --lr_schedule is constant" for name in unused]
        if self.output.mfu != OutputOptions.mfu and not self.output.dry_run:
            notes.append("--mfu has no effect without --dry_run")
        return notes

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the options by group and name, as JSON values.

        Without those of the devices: a run may be resumed on others.
        """
        groups = dataclasses.asdict(self)
        if self.optimizer.total_batch_tokens is None:
            groups["optimizer"]["grad_accum"] = self.grad_accum
        del groups["parallel"]
        return groups

    def with_dtype(self, dtype: Dtype) -> TrainConfig:
        """Return the options with the dtype that `auto` was resolved to; a resumed run keeps it."""
        return dataclasses.replace(self, runtime=dataclasses.replace(self.runtime, dtype=dtype))

    @classmethod
    def from_dict(cls, groups: dict[str, Any], source: str) -> TrainConfig:
        """Return the options that `as_dict` returned.

        Raises `InputError` for invalid ones; the message begins with `source`.
        """
        types = get_type_hints(cls)
        del types["parallel"]
        try:
            return cls(**{g: _group_from_dict(types[g], g, groups.get(g)) for g in types})
        except InputError as error:
            raise InputError(f"{source}: options: {error}") from None


def _group_from_dict(options: type[T], group: str, values: Any) -> T:
    if not isinstance(values, dict):
        raise InputError(f"{group}: expected a group of options, got {brief(values)}")
    hints = get_type_hints(options)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{group}: expected {', '.join(hints)}, got {brief(name)}")
        if not _has_type(value, hints[name]):
            raise InputError(f"{name}: expected {_type_name(hints[name])}, got {brief(value)}")
    # The frameworks do not accept every Python integer in place of a float.
    return options(**{n: float(v) if hints[n] is float else v for n, v in values.items()})


def _type_name(hint: Any) -> str:
    if options := get_args(hint):
        return " or ".join(map(_type_name, options))
    return str(getattr(hint, "__name__", hint))


def _has_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_has_type(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if hint is float and type(value) is int:
        return abs(value) <= FLOAT32_MAX
    return type(value) is hint


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are sampled. top_k, top_p and min_p filter the tokens, in this order."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy: it always takes the most probable token."""
    top_k: int = 50
    """Sample from the k most probable tokens; 0 from all."""
    top_p: float = 1.0
    """Sample from the most probable tokens with this cumulative probability; 1 from all."""
    min_p: float = 0.0
    """Sample from tokens with at least this fraction of the largest probability; 0 from all."""
    repetition_penalty: float = 1.0
    """Divides positive logits of previous tokens and multiplies negative ones; 1 disables it."""
    seed: int = 42
    """Random seed."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k", "seed"):
            require_not_negative(name, getattr(self, name))
        require_positive("top_p", self.top_p)
        if self.top_p > 1:
            raise InputError(f"top_p must be at most 1, got {self.top_p}")
        require_fraction("min_p", self.min_p)
        require_positive("repetition_penalty", self.repetition_penalty)


@dataclass(frozen=True)
class StoppingOptions:
    """Where a continuation ends."""

    max_length: Annotated[int | None, _hint("INT", "30")] = None
    """Maximum number of tokens, prompt included."""
    max_new_tokens: _Length = None
    """Maximum number of tokens without the prompt, in place of max_length."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """Texts before which to stop, besides <|endoftext|>."""
    ignore_end: bool = False
    """Do not stop at <|endoftext|>."""
    window: bool = False
    """Sliding window: generate past block_size from the last block_size tokens, without a cache."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_new_tokens is not None:
            raise InputError(
                f"expected max_length or max_new_tokens, got both: {self.max_length} and "
                f"{self.max_new_tokens}"
            )
        for name in ("max_length", "max_new_tokens"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if "" in self.stop:
            raise InputError("stop: expected texts, got an empty one")

    def total_length(self, prompt_length: int) -> int:
        """Return the maximum number of tokens of a prompt and its continuation."""
        if self.max_new_tokens is not None:
            return prompt_length + self.max_new_tokens
        return DEFAULT_LENGTH if self.max_length is None else self.max_length


@dataclass(frozen=True)
class PromptOptions:
    """The prompt and the number of continuations."""

    prompt: str = "Hello, I'm a language model,"
    """Text to continue, or - for standard input; an empty text is <|endoftext|>."""
    prompt_file: Annotated[str | None, _hint("PATH", "the prompt")] = None
    """A UTF-8 text file to continue, or - for standard input."""
    num_samples: Annotated[int | None, _hint("INT", "5, or 1 with --interactive")] = None
    """Number of continuations."""
    interactive: bool = False
    """Read prompts line by line; continue each by 100 tokens, or up to block_size."""

    def __post_init__(self) -> None:
        require_positive("num_samples", self.count)
        given = {
            "prompt": self.prompt != PromptOptions.prompt,
            "prompt_file": self.prompt_file is not None,
            "interactive": self.interactive,
        }
        if sum(given.values()) > 1:
            names = " and ".join(name for name in given if given[name])
            raise InputError(f"expected prompt, prompt_file or interactive, got {names}")

    @property
    def count(self) -> int:
        """The number of continuations: `num_samples` or its default."""
        if self.num_samples is not None:
            return self.num_samples
        return 1 if self.interactive else 5


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt; `gpt_torch.generate` and `gpt_flax.generate` take the same flags.

    python -m gpt_torch.generate --init gpt2 --prompt "The answer is" --top_p 0.9
    """

    init: Annotated[str, tyro.conf.arg(metavar="PATH|NAME")]
    """A run, a checkpoint in any format that `python -m convert` reads, or a Hub name: gpt2."""
    prompt: PromptOptions = field(default_factory=PromptOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stopping: StoppingOptions = field(default_factory=StoppingOptions)
    json: bool = False
    """Print one JSON object with tokens, texts, log-probabilities and times."""
    explain: bool = False
    """Show the borderline tokens: those that rounding errors could change."""
    exact: bool = False
    """Sample borderline tokens in float64: the same text from both twins, on any machine."""
    device: Device = "auto"
    """auto selects cuda, else mps (PyTorch only), else cpu."""
    dtype: DtypeOption = "auto"
    """As in training: auto selects bfloat16 on a GPU that supports it, else float32."""
    compile: bool = False
    """Compile the PyTorch decoding step with torch.compile; Flax is always compiled."""

    def __post_init__(self) -> None:
        if self.exact and self.dtype != "auto":
            require_exact(self.dtype)

    def with_dtype(self, dtype: Dtype) -> GenerateConfig:
        """Return the options with the dtype that `auto` was resolved to."""
        return dataclasses.replace(self, dtype=dtype)


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a model: validation loss, perplexity of a text, HellaSwag; one or several of them.

    `gpt_torch.evaluate` and `gpt_flax.evaluate` take the same flags.

    python -m gpt_torch.evaluate --init gpt2 --hellaswag val --limit 200
    """

    init: Annotated[str, tyro.conf.arg(metavar="PATH|NAME")]
    """A run, a checkpoint in any format that `python -m convert` reads, or a Hub name: gpt2."""
    data: Annotated[str | None, _hint("NAME|PATH", "none")] = None
    """Validation loss on this data, named as in training."""
    val_fraction: float = 0.1
    """As in training: fraction of the tokens, at the end, if no file is named val."""
    eval_tokens: int = 1 << 16
    """Number of validation tokens to predict, the first ones; fewer if there are fewer."""
    seq_len: Annotated[int | None, _hint("INT", "block_size")] = None
    """Tokens per sequence of the validation data (T)."""
    text: Annotated[str | None, _hint("NAME|PATH", "none")] = None
    """Perplexity of a whole text, named as --data."""
    stride: Annotated[int | None, _hint("INT", "half of block_size")] = None
    """Tokens between windows of the text, at most block_size: fewer give more context."""
    hellaswag: Annotated[str | None, _hint("val|PATH", "none")] = None
    """HellaSwag: val is its validation file, downloaded once; or the path of a .jsonl like it."""
    protocol: Literal["both", HellaSwagProtocol] = "both"
    """How HellaSwag is encoded and scored; docs/evaluation.md compares them."""
    limit: int = 0
    """Number of examples of HellaSwag, the first ones; 0 takes all."""
    batch_size: int = 16
    """Sequences per batch; it changes speed and memory only."""
    json: bool = False
    """Print one JSON object."""
    device: Device = "auto"
    """auto selects cuda, else mps (PyTorch only), else cpu."""
    dtype: DtypeOption = "auto"
    """As in training: auto selects bfloat16 on a GPU that supports it, else float32."""

    def __post_init__(self) -> None:
        if self.data is self.text is self.hellaswag is None:
            raise InputError("expected --data, --text or --hellaswag, got none of them")
        _require_with(self, "data", ("val_fraction", "eval_tokens", "seq_len"))
        _require_with(self, "text", ("stride",))
        _require_with(self, "hellaswag", ("protocol", "limit"))
        require_fraction("val_fraction", self.val_fraction)
        require_not_negative("limit", self.limit)
        for name in ("eval_tokens", "seq_len", "stride", "batch_size"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))


def require_exact(dtype: Dtype) -> None:
    """Raise `InputError` for a `dtype` in which nearly every token is borderline."""
    if dtype in ("bfloat16", "float16", "tf32"):
        raise InputError(
            f"exact: expected --dtype float32 or float64, as {dtype} rounds too much; got {dtype}"
        )
