"""Faults of evaluation: the loss of a text, HellaSwag's protocols, the commands."""

from tests.faults.fault import Fault

SCORING, HELLASWAG = "gpt_common/scoring.py", "gpt_common/hellaswag.py"
EVALUATION = "gpt_common/evaluation.py"

FAULTS = (
    Fault(
        "evaluation: the first token of an ending is not counted",
        f"{SCORING}::sum_logprobs",
        "row.inputs - row.scored",
        "row.inputs - row.scored + 1",
    ),
    Fault(
        "evaluation: the last token of the context is counted",
        f"{SCORING}::sum_logprobs",
        "row.inputs - row.scored",
        "max(0, row.inputs - row.scored - 1)",
    ),
    Fault(
        "evaluation: padding is counted",
        f"{SCORING}::sum_logprobs",
        "found[i, row.inputs - row.scored : row.inputs]",
        "found[i, row.inputs - row.scored :]",
    ),
    Fault(
        "evaluation: each token predicts itself",
        f"{SCORING}::sum_logprobs",
        "row.tokens[1:]",
        "row.tokens[:-1]",
    ),
    Fault(
        "evaluation: a model that has diverged gets a result",
        f"{SCORING}::sum_logprobs",
        "np.isfinite(sums).all()",
        "True",
    ),
    Fault(
        "evaluation: tokens that windows share are counted twice",
        f"{SCORING}::Windows.__iter__",
        "end - done",
        "len(window) - 1",
    ),
    Fault(
        "evaluation: a window predicts one token fewer than it has",
        f"{SCORING}::Windows.__iter__",
        "start + self.length + 1",
        "start + self.length",
    ),
    Fault(
        "evaluation: a text's end is left out",
        f"{SCORING}::Windows.__len__",
        "math.ceil((self.scored - self.length) / self.stride)",
        "(self.scored - self.length) // self.stride",
    ),
    Fault(
        "evaluation: the first token is counted",
        f"{SCORING}::mean_loss",
        "windows.scored",
        "len(windows.tokens)",
    ),
    Fault(
        "hellaswag: an ending of build-nanogpt's has no space before it",
        f"{HELLASWAG}::encode_build_nanogpt",
        '" " + text',
        "text",
    ),
    Fault(
        "hellaswag: build-nanogpt's mean is per character",
        f"{HELLASWAG}::encode_build_nanogpt",
        "len(ending)",
        "len(text)",
    ),
    Fault(
        "hellaswag: lm-eval's mean is per token",
        f"{HELLASWAG}::encode_lm_eval",
        "max(1, len(text))",
        "len(whole) - len(prefix)",
    ),
    Fault(
        "hellaswag: the space before an ending is one of its characters",
        f"{HELLASWAG}::encode_lm_eval",
        "max(1, len(text))",
        "len(text) + 1",
    ),
    Fault(
        "hellaswag: ctx_b is not capitalised",
        f"{HELLASWAG}::encode_lm_eval",
        'f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}"',
        'f"{example.activity_label}: {example.ctx_a} {example.ctx_b}"',
    ),
    Fault(
        "hellaswag: each word of ctx_b is capitalised",
        f"{HELLASWAG}::encode_lm_eval",
        'f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}"',
        'f"{example.activity_label}: {example.ctx_a} {example.ctx_b.title()}"',
    ),
    Fault(
        "hellaswag: lm-eval's context has no label",
        f"{HELLASWAG}::encode_lm_eval",
        'f"{example.activity_label}: {example.ctx_a} {example.ctx_b.capitalize()}"',
        'f"{example.ctx_a} {example.ctx_b.capitalize()}"',
    ),
    Fault(
        "hellaswag: white space stays at the end of lm-eval's context",
        f"{HELLASWAG}::encode_lm_eval",
        "query.rstrip()",
        "query",
    ),
    Fault(
        "hellaswag: lm-eval's endings keep their marks",
        f"{HELLASWAG}::encode_lm_eval",
        "map(clean, example.endings)",
        "example.endings",
    ),
    Fault(
        "hellaswag: [title] is removed as other marks are",
        f"{HELLASWAG}::clean",
        'text.strip().replace(" [title]", ". ")',
        "text.strip()",
    ),
    Fault(
        "hellaswag: two spaces stay",
        f"{HELLASWAG}::clean",
        're.sub(r"\\[.*?\\]", "", text).replace("  ", " ")',
        're.sub(r"\\[.*?\\]", "", text)',
    ),
    Fault(
        "hellaswag: a mark ends at the last bracket",
        f"{HELLASWAG}::clean",
        'r"\\[.*?\\]"',
        'r"\\[.*\\]"',
    ),
    Fault(
        "hellaswag: a row that is too long loses its end",
        f"{HELLASWAG}::_fit",
        "(context + ending)[-block_size - 1 :]",
        "(context + ending)[: block_size + 1]",
    ),
    Fault(
        "hellaswag: a row that is too long loses one token too many",
        f"{HELLASWAG}::_fit",
        "(context + ending)[-block_size - 1 :]",
        "(context + ending)[-block_size:]",
    ),
    Fault(
        "hellaswag: an ending without a context is scored",
        f"{HELLASWAG}::_fit",
        "not context",
        "False",
    ),
    Fault(
        "hellaswag: labels as text are refused",
        f"{HELLASWAG}::parse_example",
        "str(label) not in LABELS",
        "label not in range(ENDINGS)",
    ),
    Fault(
        "hellaswag: True is a label",
        f"{HELLASWAG}::parse_example",
        """
        if str(label) not in LABELS:
            raise InputError(f"{source}: label: expected {', '.join(LABELS)}, got {brief(label)}")
        """,
        """
        if label not in range(ENDINGS) and label not in LABELS:
            raise InputError(f"{source}: label: expected {', '.join(LABELS)}, got {brief(label)}")
        label = int(label)
        """,
    ),
    Fault(
        "hellaswag: a model with another vocabulary is evaluated",
        f"{HELLASWAG}::encode_examples",
        "VOCAB_SIZE <= model.vocab_size <= round_up(VOCAB_SIZE, 128)",
        "VOCAB_SIZE <= model.vocab_size",
    ),
    Fault(
        "hellaswag: the limit is ignored",
        f"{HELLASWAG}::read_examples",
        "limit or None",
        "None",
    ),
    Fault(
        "hellaswag: lines are counted from 0",
        f"{HELLASWAG}::read_examples",
        "enumerate(lines, start=1)",
        "enumerate(lines)",
    ),
    Fault(
        "hellaswag: processes have unequal numbers of batches",
        f"{HELLASWAG}::batches",
        "math.ceil(len(group) / world_size)",
        "len(own)",
    ),
    Fault(
        "hellaswag: each process has all examples",
        f"{HELLASWAG}::batches",
        "group[rank::world_size]",
        "group",
    ),
    Fault(
        "hellaswag: each length has a shape of its own",
        f"{HELLASWAG}::batches",
        "round_up(longest, LENGTH_STEP)",
        "longest",
    ),
    Fault(
        "hellaswag: a batch is longer than the context",
        f"{HELLASWAG}::batches",
        "min(round_up(longest, LENGTH_STEP), block_size)",
        "round_up(longest, LENGTH_STEP)",
    ),
    Fault(
        "hellaswag: acc_norm does not divide",
        f"{HELLASWAG}::answers",
        "np.argmax(s / np.array(example.lengths))",
        "np.argmax(s)",
    ),
    Fault(
        "hellaswag: acc divides",
        f"{HELLASWAG}::answers",
        "np.argmax(s)",
        "np.argmax(s / np.array(example.lengths))",
    ),
    Fault(
        "hellaswag: the least likely ending is the answer",
        f"{HELLASWAG}::answers",
        "np.argmax(s)",
        "np.argmin(s)",
    ),
    Fault(
        "hellaswag: a signal does not stop it",
        f"{HELLASWAG}::count_correct",
        "stopped()",
        "False",
    ),
    Fault(
        "evaluation: one validation token fewer",
        f"{EVALUATION}::read_evaluations",
        "config.eval_tokens + 1",
        "config.eval_tokens",
    ),
    Fault(
        "evaluation: the validation loss is of the training part",
        f"{EVALUATION}::read_evaluations",
        "_, val = load_splits(config.data, config.val_fraction, model.vocab_size)",
        "val, _ = load_splits(config.data, config.val_fraction, model.vocab_size)",
    ),
    Fault(
        "evaluation: a text's end is validation data",
        f"{EVALUATION}::read_evaluations",
        "load_splits(config.text, 0.0, model.vocab_size)",
        "load_splits(config.text, 0.1, model.vocab_size)",
    ),
    Fault(
        "evaluation: a window may be longer than the context",
        f"{EVALUATION}::_at_most",
        "number > model.block_size",
        "False",
    ),
    Fault(
        "evaluation: the standard error is a variance",
        f"{EVALUATION}::hellaswag_results",
        "math.sqrt(p * (1 - p) / counts.total)",
        "p * (1 - p) / counts.total",
    ),
    Fault(
        "evaluation: an infinite perplexity is a traceback",
        f"{EVALUATION}::loss_results",
        "loss < 700",
        "True",
    ),
    Fault(
        "torch: evaluation is in float32",
        "gpt_torch/evaluate.py::token_logprobs",
        "autocast(x.device, dtype)",
        'autocast(x.device, "float32")',
    ),
    Fault(
        "flax: evaluation is in float32",
        "gpt_flax/evaluate.py::token_logprobs",
        "autocast(dtype)",
        'autocast("float32")',
    ),
)
