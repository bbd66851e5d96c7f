"""Faults of what comes from nanoGPT and goes back."""

from tests.faults.fault import Fault

NANOGPT = "gpt_common/formats/nanogpt.py"
KARPATHY = "gpt_common/formats/karpathy.py"
SCHEDULE = "gpt_common/schedule.py"
WEIGHTS = "gpt_common/weights.py"
CHECKPOINT = "gpt_common/checkpoint.py"
RUN = "gpt_common/run.py"
FLAX_MODEL = "gpt_flax/model.py"

READING = (
    Fault(
        "nanoGPT: a constant rate is warmed up",
        NANOGPT,
        '{"lr_schedule": "constant", "warmup_steps": 0}',
        '{"lr_schedule": "constant"}',
    ),
    Fault(
        "nanoGPT: the warm-up is read as ours",
        NANOGPT,
        '"warmup_peak": "next"',
        '"warmup_peak": "last"',
    ),
    Fault(
        "nanoGPT: batches are read as large as ours",
        NANOGPT,
        '    "batch_size": "batch_size",\n',
        "",
    ),
    Fault(
        "nanoGPT: sequences are read as long as ours",
        NANOGPT,
        '    "block_size": "seq_len",\n',
        "",
    ),
    Fault(
        "nanoGPT: sequences longer than the model",
        NANOGPT,
        'min(data["seq_len"], config.block_size)',
        'data["seq_len"]',
    ),
    Fault(
        "nanoGPT: the run ends where its cosine does",
        NANOGPT,
        '    "max_iters": "steps",\n',
        "",
    ),
    Fault(
        "nanoGPT: the end of the cosine is not read",
        NANOGPT,
        '    "lr_decay_iters": "lr_decay_steps",\n',
        "",
    ),
    Fault(
        "nanoGPT: min_lr and weight_decay of the run are not read",
        NANOGPT,
        '"learning_rate", "min_lr", "weight_decay", "beta1"',
        '"learning_rate", "beta1"',
    ),
    Fault(
        "nanoGPT: its settings count before its optimizer",
        NANOGPT,
        ' | read_group(content.get("optimizer"))',
        "",
    ),
    Fault(
        "nanoGPT: a dataset is looked for beside data/",
        NANOGPT,
        'DATA + settings["dataset"]',
        'settings["dataset"]',
    ),
    Fault(
        "nanoGPT: AdamW's count is taken for the run's",
        NANOGPT,
        '            "optimizer_step": read_optimizer_step(entries, source),\n',
        "",
    ),
    Fault(
        "nanoGPT: dropout is not said",
        NANOGPT,
        "isinstance(dropout, int | float) and dropout > 0",
        "False",
    ),
    Fault(
        "nanoGPT: the options that a run of ours left are not read",
        NANOGPT,
        "if not isinstance(content.get(OURS), str):",
        "if True:",
    ),
    Fault(
        "nanoGPT: a file of bias=False is refused",
        KARPATHY,
        ', source, fields.get("bias", True))',
        ", source)",
    ),
    Fault(
        "nanoGPT: a large setting is kept whatever its size",
        NANOGPT,
        "return value if len(value) <= LONGEST else None",
        "return value",
    ),
)

WRITING = (
    Fault(
        "nanoGPT: all parameters are written into the group that decays",
        NANOGPT,
        "matrices = sum(len(shapes[name]) >= 2",
        "matrices = sum(len(shapes[name]) >= 1",
    ),
    Fault(
        "nanoGPT: written betas change places",
        NANOGPT,
        '"betas": (optimizer.beta1, optimizer.beta2)',
        '"betas": (optimizer.beta2, optimizer.beta1)',
    ),
    Fault(
        "nanoGPT: vectors are written to decay",
        NANOGPT,
        'common | {"weight_decay": 0.0, ',
        'common | {"weight_decay": optimizer.weight_decay, ',
    ),
    Fault(
        "nanoGPT: moments are written transposed",
        NANOGPT,
        "(transposed_linears(m) for m in",
        "(m for m in",
    ),
    Fault(
        "nanoGPT: the run's step is written as AdamW's",
        NANOGPT,
        "step = float(training.optimizer_step_at(training.step))",
        "step = float(training.step)",
    ),
    Fault(
        "nanoGPT: weights alone are written without an optimizer",
        NANOGPT,
        '"optimizer": optimizer_state(training, config),',
        '**({"optimizer": optimizer_state(training, config)} if training else {}),',
    ),
    Fault(
        "nanoGPT: a model is always written with biases",
        NANOGPT,
        'for name in (*karpathy.SHAPE_FIELDS, "bias")}',
        'for name in karpathy.SHAPE_FIELDS} | {"bias": True}',
    ),
    Fault(
        "nanoGPT: settings that we have no word for are lost",
        NANOGPT,
        "return before | {n: v for",
        "return {n: v for",
    ),
    Fault(
        "nanoGPT: what the run has changed is not said",
        NANOGPT,
        "if not before or v != said.get(n)",
        "if not before",
    ),
    Fault(
        "nanoGPT: its best loss is forgotten",
        NANOGPT,
        "        **plain(before),\n",
        "",
    ),
    Fault(
        "nanoGPT: what goes beyond its settings is not written",
        NANOGPT,
        "        content[OURS] = json.dumps(state_fields(replace(training, source={})))\n",
        "        pass\n",
    ),
)

RUNS = (
    Fault(
        "schedule: the peak always ends the warm-up",
        SCHEDULE,
        'options.warmup_steps + (options.warmup_peak == "next")',
        "options.warmup_steps",
    ),
    Fault(
        "schedule: the cosine always ends with the run",
        SCHEDULE,
        "options.lr_decay_steps or options.steps",
        "options.steps",
    ),
    Fault(
        "schedule: past its end the cosine rises again",
        SCHEDULE,
        "if step >= end:",
        "if step == end:",
    ),
    Fault(
        "torch: a resumed AdamW counts the run's steps",
        "gpt_torch/optimizer.py",
        "step = training.optimizer_step_at(training.step)",
        "step = training.step",
    ),
    Fault(
        "flax: a resumed AdamW counts the run's steps",
        "gpt_flax/optimizer.py",
        "step = training.optimizer_step_at(training.step)",
        "step = training.step",
    ),
    Fault(
        "a run forgets how far AdamW's count is off its own",
        RUN,
        "start.optimizer_step_at(step) if start else step",
        "step",
    ),
    Fault(
        "a run forgets what the file it came from says",
        RUN,
        "source=start.source if start else {}",
        "source={}",
    ),
    Fault(
        "the trainer does not say what it leaves out",
        RUN,
        "for note in run.start.notes:",
        "for note in ():",
    ),
    Fault(
        "resume: how the data is split may not change with it",
        RUN,
        '    "val_fraction",\n',
        "",
    ),
    Fault(
        "convert does not say what is left out",
        "convert/__main__.py",
        ", *checkpoint.notes]",
        "]",
    ),
)

BIASES = (
    Fault(
        "torch: a model without biases has those of its linear layers",
        "gpt_torch/model.py",
        "Linear(in_features, out_features, bias)",
        "Linear(in_features, out_features)",
    ),
    Fault(
        "torch: a model without biases has those of its norms",
        "gpt_torch/model.py",
        "eps=LAYER_NORM_EPSILON, bias=config.bias",
        "eps=LAYER_NORM_EPSILON",
    ),
    Fault(
        "flax: a model without biases has those of its linear layers",
        FLAX_MODEL,
        "Linear(features, use_bias=bias, ",
        "Linear(features, ",
    ),
    Fault(
        "flax: a model without biases has those of its norms",
        FLAX_MODEL,
        "use_bias=config.bias, use_fast",
        "use_fast",
    ),
    Fault(
        "flax: the fast linear layer always has a bias",
        FLAX_MODEL,
        " if self.use_bias else None",
        "",
    ),
    Fault(
        "checkpoint: no zeros for transformers, which always has biases",
        CHECKPOINT,
        "with_zero_biases(checkpoint.weights, checkpoint.config)  # for transformers",
        "checkpoint.weights",
    ),
    Fault(
        "checkpoint: biases of a model without are dropped whatever they are",
        WEIGHTS,
        "if not in_model(name, config) and arrays[name].any():",
        "if False:",
    ),
    Fault(
        "checkpoint: the configuration never says that there are no biases",
        CHECKPOINT,
        "    if config.bias:\n        del shape",
        "    if True:\n        del shape",
    ),
    Fault(
        "parameters: those of the last norm count twice",
        WEIGHTS,
        "+ (config.n_layer - 1) * block",
        "+ (config.n_layer - 1) * (block + config.n_embd)",
    ),
)

HANDED_ON: tuple[Fault, ...] = (
    Fault(
        "nanoGPT: epsilon is not read",
        "gpt_common/formats/nanogpt.py",
        '("beta1", "beta2", "eps", "weight_decay")',
        '("beta1", "beta2", "weight_decay")',
    ),
    Fault(
        "nanoGPT: epsilon is not written",
        "gpt_common/formats/nanogpt.py",
        '"eps": optimizer.eps',
        '"eps": 1e-8',
    ),
    Fault(
        "nanoGPT: a file without settings has a cosine",
        "gpt_common/formats/nanogpt.py",
        'if settings.get("decay_lr") is not True:',
        'if settings.get("decay_lr") is False:',
    ),
    Fault(
        "nanoGPT: that the batches are others is not said",
        "gpt_common/formats/nanogpt.py",
        'training.versions.get("framework") == NAME',
        "training.versions == NAME",
    ),
    Fault(
        "nanoGPT: a constant rate is written as a cosine",
        "gpt_common/formats/nanogpt.py",
        '= config.optimizer.lr_schedule == "cosine"',
        "= True",
    ),
    Fault(
        "nanoGPT: the learning rate is not written into the optimizer",
        "gpt_common/formats/nanogpt.py",
        '"lr": optimizer.learning_rate',
        '"lr": 1e-3',
    ),
    Fault(
        "nanoGPT: the cosine is written to end where nanoGPT's does",
        "gpt_common/formats/nanogpt.py",
        'found["lr_decay_iters"] or found["max_iters"]',
        'found["lr_decay_iters"] or 600_000',
    ),
    Fault(
        "nanoGPT: a file is written as a dataset",
        "gpt_common/formats/nanogpt.py",
        " and not Path(data).suffix",
        "",
    ),
)

FAULTS: tuple[Fault, ...] = (*READING, *WRITING, *RUNS, *BIASES, *HANDED_ON)
