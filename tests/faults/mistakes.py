"""The classic mistakes of writing GPT-2 anew, each a fault that `effects.py` measures."""

from dataclasses import dataclass

from tests.faults.fault import Fault
from tests.faults.registry import FAULTS

_FAULTS = {fault.name: fault for fault in FAULTS}


@dataclass(frozen=True)
class Mistake:
    """A fault of one line of a twin, and in plain words what it is and does."""

    id: str
    fault: Fault
    why: str

    @property
    def framework(self) -> str:
        return self.fault.file.partition("/")[0].removeprefix("gpt_")

    @property
    def name(self) -> str:
        return self.fault.name.partition(": ")[2]


MISTAKES = tuple(
    Mistake(id, _FAULTS[name], " ".join(why.split()))
    for id, name, why in (
        (
            "kernel-not-transposed",
            "torch: the square c_proj is not transposed",
            """GPT-2's files have kernels (in, out), nn.Linear has (out, in). This kernel is
            square, so its shape is right either way and nothing warns. A run from random weights
            hides it: transposed, they are as random. A loaded model is wrong.""",
        ),
        (
            "epsilon",
            "flax: LayerNorm's epsilon is Flax's",
            """GPT-2 adds 1e-5 to the variance. PyTorch's default is the same, Flax's is 1e-6. The
            error is small and appears only in numbers: a model trained with it is as good.""",
        ),
        (
            "unbiased-variance",
            "torch: the variance is unbiased, tensors' default",
            """A LayerNorm written by hand: Tensor.var divides by n - 1, LayerNorm by n.
            Every norm is slightly too small, and training looks normal.""",
        ),
        (
            "exact-gelu",
            "torch: GELU is always the erf form",
            """GPT-2 uses the tanh form, which is not the default of nn.GELU. The two differ by at
            most 5e-4, so text still looks right, and a model trained with it is as good.""",
        ),
        (
            "qkv-order",
            "torch: queries and keys change places",
            """c_attn computes queries, keys and values in this order. With the first two exchanged
            the matrix of scores is transposed. All shapes are right.""",
        ),
        (
            "qkv-per-head",
            "flax: each head has its own queries, keys and values side by side",
            """The layout of GPT-NeoX and Megatron, not of GPT-2. All shapes are right, but heads
            get numbers of other heads.""",
        ),
        (
            "head-order",
            "torch: heads are merged in the wrong order",
            """PyTorch's attention has heads before time. Without the transposition back, reshape
            mixes positions and heads, so a position also sees later tokens, its target among them.
            The loss is low because the model copies it, and the model is useless: when it
            generates, there is no later token.""",
        ),
        (
            "no-mask",
            "torch: the mask is gone",
            """Every position sees later tokens, its target among them. The loss is low because the
            model copies it, and the model is useless: when it generates, there is no later
            token.""",
        ),
        (
            "mask-off-by-one",
            "flax: the mask is shifted by one, a token sees the next",
            """Each position sees the next token, its target. The loss is low because the model
            copies it, and the model is useless: when it generates, there is no next token.""",
        ),
        (
            "mask-with-zeros",
            "flax: hidden scores are 0, not minus infinity",
            """A score of 0 is not a probability of 0: after the softmax each later position has
            a weight, that of the target among them. The loss is low because the model copies it,
            and the model is useless: when it generates, there is no later token.""",
        ),
        (
            "no-scale",
            "flax: scores are not scaled",
            """The scores are not divided by the square root of the head size, so the softmax is
            too sharp. It is worse the larger the heads are.""",
        ),
        (
            "softmax-axis",
            "flax: the softmax is over queries",
            """The weights of a position no longer add up to 1; those of a key over all
            queries do. The shape is the same, as the scores are square. Each sum is over queries
            of later positions too, so a weight tells of later tokens. The loss is low because
            the model uses that, and the model is useless: when it generates, there are none.""",
        ),
        (
            "post-norm",
            "flax: the norm comes after, as in the first GPT",
            """GPT-2 normalizes the input of a sub-layer and leaves the residual stream as it is;
            GPT-1 normalizes the sum.""",
        ),
        (
            "position-offset",
            "torch: positions count from 1",
            """Each token gets the embedding of the next position. A model trained like this
            works; one that is loaded does not.""",
        ),
        (
            "untied-head",
            "flax: the head's use of the embedding gets no gradient",
            """The head has the embedding's values but not its gradient. All outputs are right;
            only the embedding's gradient is not.""",
        ),
        (
            "shifted-twice",
            "torch: targets are shifted once more",
            """The data already pairs each token with the next. A model that shifts again, as
            transformers' does with its labels, learns to predict the token after it.""",
        ),
        (
            "loss-sum",
            "flax: the loss is a sum over positions",
            """The loss and all gradients are T times too large. Clipping and AdamW hide
            it from the weights; the printed loss shows it.""",
        ),
        (
            "accumulation",
            "torch: accumulated gradients are summed",
            """Gradients of several batches must be averaged. AdamW is nearly independent of
            their scale, so only the loss and clipping show it.""",
        ),
        (
            "last-batch",
            "flax: of accumulated gradients the last remain",
            """The sums of losses and gradients are replaced, not extended. Every update is of
            one batch only. The loss is low because the only one of two batches is still divided by
            2: the printed number is wrong, not the model.""",
        ),
        (
            "zero-grad",
            "torch: gradients pile up over steps",
            """backward() adds to .grad. Without zero_grad() each update is of all batches so
            far.""",
        ),
        (
            "clip-by-value",
            "torch: clipping is by value",
            """Clipping must scale all gradients by one factor. By value it changes their
            direction, or, as here, does nothing: no single number is above the limit.""",
        ),
        (
            "clip-discarded",
            "flax: clipped gradients are discarded",
            """A pure function changes nothing in place. Its result must be used, else the norm
            is logged and nothing is clipped.""",
        ),
        (
            "decay-everything",
            "torch: everything decays",
            """Weight decay is for matrices and embeddings. Here it also pulls biases and the
            weights of norms to 0.""",
        ),
        (
            "l2-penalty",
            "torch: weight decay is Adam's L2 penalty",
            """Adam's weight_decay adds to the gradient and is divided by its root mean square.
            AdamW's is subtracted from the weight.""",
        ),
        (
            "no-bias-correction",
            "flax: no bias correction",
            """The moments start at 0 and are too small in the first steps. Adam divides
            them by 1 - beta^t; without it the first steps have the wrong size.""",
        ),
        (
            "next-learning-rate",
            "flax: the learning rate of the next step",
            """Steps are counted from 0 in one place and from 1 in another. Every update uses the
            learning rate of the next one.""",
        ),
    )
)
