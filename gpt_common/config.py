"""The model's shape (`GPTConfig`) and the command-line options that both twins share.

The options are dataclasses: a field is a flag, its docstring the flag's help, a nested dataclass a
group in `--help`. `gpt_common.cli` turns them into a command line.
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
    require_fraction,
    require_not_negative,
    require_positive,
    shown,
)

T = TypeVar("T")

Activation = Literal["gelu_new", "gelu"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Dtype = Literal["float32", "tf32", "bfloat16", "float64"]
DtypeOption = Literal["auto"] | Dtype
Preset = Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "shakespeare", "tiny"]

LAYER_NORM_EPSILON = 1e-5
MOST_LAYERS = 1000  # that are made anew: beyond it a model takes hours to build and compile
DEFAULT_LENGTH = 30  # the lecture's
VOCAB_MULTIPLE = 64  # 50257 pads to 50304, a size that matrix hardware likes


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2: pre-LayerNorm blocks, learned positions, tied head.

    `activation` is `gelu_new` (the tanh form, GPT-2's own) or `gelu` (the erf form). Without `bias`
    neither linear layers nor norms have one.
    Raises `InputError` where a size is not positive or `n_embd` is not divisible by `n_head`.
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
                f"got {shown(self.activation)}"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in memory: `vocab_size` rounded up to a multiple of 64."""
        return round_up(self.vocab_size, VOCAB_MULTIPLE)


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple that is not below `number`."""
    return -(-number // multiple) * multiple


PRESETS: dict[Preset, GPTConfig] = {
    "gpt2": GPTConfig(),  # 124,439,808 parameters
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),  # 354,823,168
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),  # 774,030,080
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),  # 1,557,611,200
    "shakespeare": GPTConfig(n_layer=6, n_head=5, n_embd=160, block_size=256),  # 9,938,080
    "tiny": GPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=64),  # 404,328
}


# A size that defaults to the preset's.
_Size = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the preset's)")
]


@dataclass(frozen=True)
class ModelOptions:
    """The model, and where its weights come from."""

    preset: Preset = "gpt2"
    """A named shape; each size below overrides it."""
    n_layer: _Size = None
    """Number of blocks."""
    n_head: _Size = None
    """Attention heads in each block."""
    n_embd: _Size = None
    """Width; divisible by n_head."""
    block_size: _Size = None
    """Longest sequence, in tokens."""
    vocab_size: _Size = None
    """Number of distinct tokens."""
    activation: Annotated[
        Activation | None,
        tyro.conf.arg(metavar="{gelu_new,gelu}", help_behavior_hint="(default: the preset's)"),
    ] = None
    """gelu_new is GPT-2's tanh form, gelu the erf form."""
    bias: Annotated[
        bool | None,
        tyro.conf.arg(metavar="{True,False}", help_behavior_hint="(default: the preset's)"),
    ] = None
    """Whether linear layers and norms have biases."""
    init: Annotated[str, tyro.conf.arg(metavar="scratch|PATH|NAME")] = "scratch"
    """Start from random weights, or from the weights and the shape of a model: a path, or gpt2."""

    def overrides(self) -> dict[str, int | str]:
        """Return the fields of `GPTConfig` that were given by hand."""
        names = [f.name for f in dataclasses.fields(GPTConfig)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def gpt_config(self) -> GPTConfig:
        """Return the preset with its overrides. Raises `InputError` where they do not fit."""
        if (self.n_layer or 0) > MOST_LAYERS:
            raise InputError(f"n_layer must be at most {MOST_LAYERS}, got {self.n_layer}")
        return dataclasses.replace(PRESETS[self.preset], **self.overrides())  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataOptions:
    """The tokens, and how they are cut into batches."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "shakespeare"
    """shakespeare (bundled), tiny_shakespeare, or a path: a text, .npy or .bin tokens, or a folder
    of either; files of a folder that have train and val in their names are the two parts."""
    val_fraction: float = 0.1
    """Share of the tokens, at the end, that is kept for validation where no file is named val."""
    batch_size: int = 4
    """Sequences in a batch (B)."""
    seq_len: int = 32
    """Tokens in a sequence (T)."""
    overfit_batch: bool = False
    """Train on the first batch only, again and again."""

    def __post_init__(self) -> None:
        require_fraction("val_fraction", self.val_fraction)
        require_positive("batch_size", self.batch_size)
        require_positive("seq_len", self.seq_len)


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW and its learning rate."""

    steps: int = 50
    """Updates in the whole run, also after --resume."""
    grad_accum: int = 1
    """Batches averaged into one update."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    min_lr: float = 3e-5
    """Learning rate at the end of the cosine."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    warmup_peak: Literal["last", "next"] = "last"
    """The first step at the peak: the last of the warm-up, or, as in nanoGPT, the next one."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    lr_decay_steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: steps)")
    ] = None
    """Step at which the cosine ends; past it the learning rate is min_lr."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decay of matrices and embeddings; biases and norms have none."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        for name in ("steps", "grad_accum", "eps"):
            require_positive(name, getattr(self, name))
        if self.lr_decay_steps is not None:
            require_positive("lr_decay_steps", self.lr_decay_steps)
        for name in ("learning_rate", "min_lr", "warmup_steps", "weight_decay", "grad_clip"):
            require_not_negative(name, getattr(self, name))
        require_fraction("beta1", self.beta1)
        require_fraction("beta2", self.beta2)


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how it is computed."""

    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: DtypeOption = "auto"
    """auto takes bfloat16 on a GPU that has it, else float32. tf32 (cuda) and bfloat16 are for
    products of matrices over float32; float64 is for all."""
    compile: bool = False
    """Compile the PyTorch model with torch.compile; Flax is always compiled."""
    fast_ops: bool = True
    """Take the operations that are faster on this hardware; --no_fast_ops the plain ones."""
    seed: int = 1337
    """Seed of the initial weights and of the samples."""

    def __post_init__(self) -> None:
        require_not_negative("seed", self.seed)


@dataclass(frozen=True)
class OutputOptions:
    """What the run reports and keeps."""

    out_dir: Annotated[
        str | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: runs/DATE-TIME-FRAMEWORK)"),
    ] = None
    """Folder of the run: log.jsonl and a folder for each checkpoint."""
    resume: Annotated[
        str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: a new run)")
    ] = None
    """Go on with a run: its folder (its last checkpoint) or one of its checkpoint folders."""
    log_every: int = 1
    """Steps between lines on the console; log.jsonl has every step."""
    eval_every: int = 50
    """Steps between evaluations; 0 turns them off."""
    eval_steps: int = 10
    """Batches of validation tokens in an evaluation."""
    sample_every: int = 0
    """Steps between samples; 0 samples at the end only."""
    checkpoint_every: int = 0
    """Steps between checkpoints; the last step always saves one."""
    keep_last: int = 0
    """Checkpoints to keep, the newest; 0 keeps all. The newest counts when the step after it was
    finite."""
    new_data: tyro.conf.Suppress[bool] = False
    """No flag: whether `--data` was given beside `--resume`, so that other data is meant."""

    def __post_init__(self) -> None:
        require_positive("log_every", self.log_every)
        require_positive("eval_steps", self.eval_steps)
        for name in ("eval_every", "sample_every", "checkpoint_every", "keep_last"):
            require_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class TrainConfig:
    """Train a GPT-2; `gpt_torch.train` and `gpt_flax.train` take the same flags."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the options by group and name, in a form that JSON can hold."""
        return dataclasses.asdict(self)

    def with_dtype(self, dtype: Dtype) -> TrainConfig:
        """Return the options with what `--dtype auto` came to, which a resumed run then keeps."""
        return dataclasses.replace(self, runtime=dataclasses.replace(self.runtime, dtype=dtype))

    @classmethod
    def from_dict(cls, groups: dict[str, Any]) -> TrainConfig:
        """Return the options that `as_dict` returned. Raises `InputError` for strange ones."""
        types = get_type_hints(cls)
        return cls(**{group: _from_dict(types[group], group, groups.get(group)) for group in types})


def _from_dict(options: type[T], group: str, values: Any) -> T:
    """Return the options of a group from what a file says of them.

    A whole number is a float where one is due: as an integer the frameworks take none above their
    own largest.
    """
    if not isinstance(values, dict):
        raise InputError(f"{group}: expected its options, got {shown(values)}")
    hints = get_type_hints(options)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{group}: expected none but its options, got {shown(name)}")
        if not _is_of(value, hints[name]):
            raise InputError(f"{name}: expected {_in_words(hints[name])}, got {shown(value)}")
    return options(**{n: float(v) if hints[n] is float else v for n, v in values.items()})


def _in_words(hint: Any) -> str:
    if options := get_args(hint):
        return " or ".join(map(_in_words, options))
    return str(getattr(hint, "__name__", hint))


def _is_of(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float and type(value) is int:
        return abs(value) <= FLOAT32_MAX
    return type(value) is hint


@dataclass(frozen=True)
class SamplingOptions:
    """How each token is chosen. The cuts apply in this order, each to what the others left."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most probable token."""
    top_k: int = 50
    """Draw from the k most probable tokens; 0 from all."""
    top_p: float = 1.0
    """Draw from the most probable tokens that make up this share; 1 from all."""
    min_p: float = 0.0
    """Draw from tokens at least this share as probable as the most probable."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that have occurred and multiplies negative; 1 is none."""
    seed: int = 42
    """Seed of the draws."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k", "seed"):
            require_not_negative(name, getattr(self, name))
        require_positive("top_p", self.top_p)
        if self.top_p > 1:
            raise InputError(f"top_p must be at most 1, got {self.top_p}")
        require_fraction("min_p", self.min_p)
        require_positive("repetition_penalty", self.repetition_penalty)


# A length that has no default of its own.
_Length = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: none)")]


@dataclass(frozen=True)
class StoppingOptions:
    """How far a continuation goes."""

    max_length: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 30)")
    ] = None
    """Length in tokens, prompt included."""
    max_new_tokens: _Length = None
    """Length in tokens without the prompt, in place of max_length."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """Texts to stop before; <|endoftext|> always is one."""
    ignore_end: bool = False
    """Go on after <|endoftext|>."""
    window: bool = False
    """Go on past block_size: every token from the last block_size tokens, encoded anew."""

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

    def end(self, prompt_length: int) -> int:
        """Return the length, in tokens, at which the continuation of a prompt ends."""
        if self.max_new_tokens is not None:
            return prompt_length + self.max_new_tokens
        return DEFAULT_LENGTH if self.max_length is None else self.max_length


@dataclass(frozen=True)
class PromptOptions:
    """What is continued."""

    prompt: str = "Hello, I'm a language model,"
    """Text to continue, or - for standard input; where it is empty, <|endoftext|>."""
    prompt_file: Annotated[
        str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: the prompt)")
    ] = None
    """A UTF-8 text file to continue, or - for standard input."""
    num_samples: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 5, or 1 with --interactive)"),
    ] = None
    """Continuations."""
    interactive: bool = False
    """Ask for prompts, one after the other, and answer each with 100 new tokens, or what fits."""

    def __post_init__(self) -> None:
        require_positive("num_samples", self.count)

    @property
    def count(self) -> int:
        """The number of continuations."""
        if self.num_samples is not None:
            return self.num_samples
        return 1 if self.interactive else 5


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a prompt; `gpt_torch.generate` and `gpt_flax.generate` take the same flags."""

    init: Annotated[str, tyro.conf.arg(metavar="PATH|NAME")]
    """A checkpoint in any format that `python -m convert` reads, a run, or a Hub name: gpt2."""
    prompt: PromptOptions = field(default_factory=PromptOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stopping: StoppingOptions = field(default_factory=StoppingOptions)
    json: bool = False
    """Print one JSON object: tokens, texts, log-probabilities, times."""
    explain: bool = False
    """Show the draws that rounding could have turned to another token."""
    exact: bool = False
    """Decide such draws in float64: the same text from both twins, in any batch, on any machine."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: DtypeOption = "auto"
    """As in training: auto takes bfloat16 on a GPU that has it, else float32."""
    compile: bool = False
    """Compile the PyTorch model's step with torch.compile; Flax is always compiled."""

    def __post_init__(self) -> None:
        if self.exact and self.dtype != "auto":
            require_exact(self.dtype)

    def with_dtype(self, dtype: Dtype) -> GenerateConfig:
        """Return the options with what `--dtype auto` came to."""
        return dataclasses.replace(self, dtype=dtype)


def require_exact(dtype: Dtype) -> None:
    """Raise `InputError` where nearly every draw is within the rounding of `dtype`."""
    if dtype in ("bfloat16", "tf32"):
        raise InputError(
            f"exact: expected --dtype float32 or float64, as {dtype} rounds too much; got {dtype}"
        )
