"""Faults of files and formats."""

from tests.faults.fault import Fault

CHECKPOINT = "gpt_common/checkpoint.py"
STORAGE = "gpt_common/storage.py"
BASE = "gpt_common/formats/base.py"
DESTINATION = "convert/destination.py"
TORCH_FILES = "gpt_common/formats/torch_files.py"
MSGPACK = "gpt_common/formats/msgpack_files.py"
ORBAX = "gpt_common/formats/orbax.py"
VERIFY = "convert/verify.py"

FAULTS: tuple[Fault, ...] = (
    # What a folder of ours holds.
    Fault(
        "config.json: no end of text",
        CHECKPOINT,
        "end = tokenizer.END_OF_TEXT_TOKEN if has_end else None",
        "end = None",
    ),
    Fault(
        "no tokenizer beside a padded vocabulary",
        CHECKPOINT,
        "if config.vocab_size >= tokenizer.VOCAB_SIZE:",
        "if config.vocab_size == tokenizer.VOCAB_SIZE:",
    ),
    Fault(
        "the tokenizer does not know the model's length",
        "gpt_common/tokenizer.py",
        '"model_max_length": max_length,',
        "",
    ),
    Fault(
        "an empty activation is taken for the default",
        CHECKPOINT,
        "ACTIVATION_ALIASES.get(activation, activation)",
        'ACTIVATION_ALIASES.get(activation, activation or "gelu_new")',
    ),
    Fault(
        "a run's options may be of any type",
        "gpt_common/config.py",
        "if not _is_of(value, hints[name]):",
        "if False:",
    ),
    Fault(
        "a link to itself is followed",
        CHECKPOINT,
        "return Path(os.path.realpath(path))",
        "return path.resolve()",
    ),
    # Files.
    Fault(
        "a file has its place before it is on the disk",
        STORAGE,
        "            yield part\n            sync(part)\n            os.replace",
        "            yield part\n            os.replace",
    ),
    Fault(
        "safetensors are not aligned",
        STORAGE,
        'content += b" " * (-len(content) % 8)',
        'content += b""',
    ),
    Fault(
        "one map a tensor",
        STORAGE,
        "return mapped_array(content, dtype, tuple(entry",
        "return mapped_array(map_file(path), dtype, tuple(entry",
    ),
    Fault(
        "pipes and devices are opened",
        STORAGE,
        "    if not path.is_file():\n",
        "    if path.is_dir():\n",
    ),
    Fault(
        "JSON of any length",
        STORAGE,
        "(size := path.stat().st_size) > MOST_JSON_BYTES",
        "(size := path.stat().st_size) < 0",
    ),
    Fault(
        "a header of any length",
        STORAGE,
        "if length > MOST_HEADER_BYTES:",
        "if length < 0:",
    ),
    Fault(
        "a folder that stands aside stays in the way",
        STORAGE,
        "    recover_folder(folder)\n    part = temporary_beside(folder)",
        "    part = temporary_beside(folder)",
    ),
    Fault(
        "control characters of a file reach the terminal",
        "gpt_common/errors.py",
        'c if c.isprintable() else c.encode("unicode_escape").decode()',
        "c",
    ),
    Fault(
        "what is shown of a file has no end",
        "gpt_common/errors.py",
        "cut = text[:most]",
        "cut = text",
    ),
    # Sizes.
    Fault(
        "as many layers as a file claims",
        "gpt_common/weights.py",
        "if config.n_layer > num_tensors:",
        "if False:",
    ),
    Fault(
        "as many parameters as a file claims",
        "gpt_common/weights.py",
        "(parameters := num_parameters(config)) > size",
        "(parameters := num_parameters(config)) < 0",
    ),
    Fault(
        "tensors share their numbers",
        TORCH_FILES,
        "if num_bytes(arrays) > 2 * sum(storages.values()):",
        "if num_bytes(arrays) < 0:",
    ),
    Fault(
        "pickles: tuples in tuples without end",
        TORCH_FILES,
        "if stack and stack[-1] > MOST_IN_TUPLE:",
        "if stack and stack[-1] < 0:",
    ),
    Fault(
        "pickles of any length",
        TORCH_FILES,
        "if count == MOST_OPCODES:",
        "if count < 0:",
    ),
    Fault(
        "msgpack: maps and lists without end",
        MSGPACK,
        "        require_few_objects(content)\n",
        "",
    ),
    Fault(
        "orbax: arrays as large as they claim",
        ORBAX,
        "if claimed > MOST_COMPRESSED * size:",
        "if claimed < 0:",
    ),
    # Two files that belong together.
    Fault(
        "FILE.json: the checksum is not checked",
        BASE,
        "(got := checksum(path)) != expected",
        "(got := checksum(path)) is None",
    ),
    Fault(
        "FILE.json: what waits is not read",
        BASE,
        "    if is_of(_next(path), path):\n        return read_config(_next(path))\n",
        "",
    ),
    Fault(
        "FILE.json: replaced before its file",
        BASE,
        "write_config(_next(path), config, **{CHECKSUM: checksum(part)})",
        "write_config(beside(path), config, **{CHECKSUM: checksum(part)})",
    ),
    Fault(
        "FILE.json: what a killed process left waiting is lost",
        BASE,
        "    settle(path)\n    try:\n        with atomic_file(path) as part:",
        "    try:\n        with atomic_file(path) as part:",
    ),
    Fault(
        "orbax: a full disk is a ValueError",
        ORBAX,
        "if not (code := OS_ERROR.search(str(error))):",
        "if not (code := OS_ERROR.match(str(error))):",
    ),
    # What --overwrite replaces.
    Fault(
        "--overwrite: the source",
        DESTINATION,
        "if overlap(found, source):",
        "if False:",
    ),
    Fault(
        "--overwrite: the source under another name",
        DESTINATION,
        "    if second.exists() and first.samefile(second):\n        return True\n",
        "",
    ),
    Fault(
        "--overwrite: links",
        DESTINATION,
        "if found.is_symlink():",
        "if False:",
    ),
    Fault(
        "--overwrite: folders with anything in them",
        DESTINATION,
        "if others := [name for name in names if not is_of_model(names[name])]:",
        "if others := []:",
    ),
    Fault(
        "--overwrite: folders that are no model",
        DESTINATION,
        "        require_configuration(folder / CONFIG)\n",
        "        pass\n",
    ),
    Fault(
        "--overwrite: a checkpoint of a run",
        DESTINATION,
        "if STEP_FOLDER.fullmatch(place.name)",
        "if STEP_FOLDER.fullmatch(place.suffix)",
    ),
    Fault(
        "--overwrite: files that are no model",
        DESTINATION,
        "            registry.detect(found)\n",
        "            pass\n",
    ),
    Fault(
        "--overwrite: another's FILE.json",
        DESTINATION,
        "if target.described else [destination]",
        "if False else [destination]",
    ),
    Fault(
        "--overwrite: devices and pipes",
        DESTINATION,
        "elif not found.is_file():",
        "elif False:",
    ),
    Fault(
        "a folder that stands aside is not there",
        DESTINATION,
        "found = existing_folder(place)",
        "found = place",
    ),
    # The formats.
    Fault(
        "llm.c: the destination is overwritten before the activation is refused",
        "gpt_common/formats/llmc.py",
        '    require_activation(config, "gelu_new", NAME)\n',
        '    with atomic_file(path) as part:\n        part.write_bytes(b"half a model")\n'
        '    require_activation(config, "gelu_new", NAME)\n',
    ),
    Fault(
        "OpenAI: layers and heads change places",
        "gpt_common/formats/openai.py",
        '    "n_layer": "n_layer",\n    "n_head": "n_head",',
        '    "n_layer": "n_head",\n    "n_head": "n_layer",',
    ),
    Fault(
        "build-nanogpt: the step is lost",
        "gpt_common/formats/build_nanogpt.py",
        '"step": checkpoint.training.step if checkpoint.training else 0',
        '"step": 0',
    ),
    Fault(
        "Hub: the configuration is not downloaded",
        "gpt_common/formats/huggingface_hub.py",
        'allow_patterns=["config.json", pattern]',
        "allow_patterns=[pattern]",
    ),
    Fault(
        "convert: a cast makes weights infinite",
        "convert/__main__.py",
        "if (np.isinf(weights[name]) & ~np.isinf(weight)).any():",
        "if False:",
    ),
    Fault(
        "convert: --weights_only keeps the state of the run",
        "convert/__main__.py",
        "(config.weights_only or not target.keeps_training)",
        "(not target.keeps_training)",
    ),
    Fault(
        "verify: the loss is held against the logits' tolerance",
        VERIFY,
        "np.array(other.loss), tolerance.loss)",
        "np.array(other.loss), tolerance.logits)",
    ),
    Fault(
        "verify: transformers' loss in bfloat16",
        VERIFY,
        "logits = model(x).logits.to(master_dtype(dtype))",
        "logits = model(x).logits",
    ),
    Fault(
        "config.json: transformers trains with dropout",
        "gpt_common/checkpoint.py",
        '"resid_pdrop"), 0.0)',
        '"resid_pdrop"), 0.1)',
    ),
    Fault(
        "config.json: n_ctx is always 1024",
        "gpt_common/checkpoint.py",
        '"n_ctx": config.block_size',
        '"n_ctx": 1024',
    ),
    Fault(
        "config.json: a model without a head",
        "gpt_common/checkpoint.py",
        '"architectures": ["GPT2LMHeadModel"]',
        '"architectures": ["GPT2Model"]',
    ),
    Fault(
        "config.json: cross-attention is passed over",
        "gpt_common/checkpoint.py",
        '    "add_cross_attention": False,\n',
        "",
    ),
    Fault(
        "config.json: attention without a scale is read",
        "gpt_common/checkpoint.py",
        '    "scale_attn_weights": True,\n',
        "",
    ),
    Fault(
        "config.json: gelu_pytorch_tanh is the erf form",
        "gpt_common/checkpoint.py",
        '{"gelu_pytorch_tanh": "gelu_new"}',
        '{"gelu_pytorch_tanh": "gelu"}',
    ),
    Fault(
        "a run without log and latest is none",
        "gpt_common/checkpoint.py",
        "or bool(run_checkpoints(folder))",
        "",
    ),
    Fault(
        "a run with latest alone is none",
        "gpt_common/checkpoint.py",
        "(folder / LATEST).is_symlink() or (folder / LOG).exists()",
        "(folder / LOG).exists()",
    ),
    Fault(
        "a run with a log alone is none",
        "gpt_common/checkpoint.py",
        "(folder / LATEST).is_symlink() or (folder / LOG).exists()",
        "(folder / LATEST).is_symlink()",
    ),
    Fault(
        "a run has the options of its oldest checkpoint",
        "gpt_common/checkpoint.py",
        "for folder in newer:",
        "for folder in ():",
    ),
    Fault(
        "a run whose newest state is damaged has no options",
        "gpt_common/checkpoint.py",
        "*newer, oldest = checkpoint_folders(Path(path))",
        "newer, (oldest, *_) = [], checkpoint_folders(Path(path))",
    ),
    Fault(
        "--overwrite: a folder by the name of a file",
        "convert/destination.py",
        " and not path.is_dir()",
        "",
    ),
    Fault(
        "--overwrite: the folder above",
        "convert/destination.py",
        'if destination.name in ("", ".."):',
        'if destination.name == "":',
    ),
    Fault(
        "convert: the second moment is cut from the first",
        "convert/__main__.py",
        "exp_avg_sq=cut(checkpoint.training.exp_avg_sq)",
        "exp_avg_sq=cut(checkpoint.training.exp_avg)",
    ),
    Fault(
        "a folder's files go before its name does",
        "gpt_common/storage.py",
        "    os.rename(folder, part)\n    sync(folder.parent)\n",
        "    os.rename(folder, part)\n",
    ),
    Fault(
        "verify: what is below is no difference",
        "convert/verify.py",
        "float(np.abs(d).max())",
        "float(d.max())",
    ),
    Fault(
        "verify: the divergence of the reference from the other",
        "convert/verify.py",
        'kl_divergence(reference.layers["logits"], other.layers["logits"])',
        'kl_divergence(other.layers["logits"], reference.layers["logits"])',
    ),
    Fault(
        "verify: the losses change places",
        "convert/verify.py",
        "losses=(reference.loss, other.loss)",
        "losses=(other.loss, reference.loss)",
    ),
    Fault(
        "verify: transformers gets float64 by way of float32",
        "convert/verify.py",
        'np.float64 if dtype == "float64" else np.float32',
        "np.float32",
    ),
    Fault(
        "verify: a checkpoint is called torch beside another",
        "convert/verify.py",
        'name = config.checkpoint if config.other else "torch"',
        'name = "torch"',
    ),
    Fault(
        "verify: targets may be beyond the vocabulary",
        "convert/verify.py",
        "max(x.max(), y.max()) < model.vocab_size",
        "x.max() < model.vocab_size",
    ),
    Fault(
        "verify: logits are held to what layers are",
        "convert/verify.py",
        'return self.logits if layer == "logits" else self.layers',
        "return self.layers",
    ),
    Fault(
        "torch: prompts of each length are compiled",
        "gpt_torch/frozen.py",
        "if self.compiled_step and tokens.shape[1] == 1:",
        "if self.compiled_step:",
    ),
)
