"""Faults of the converters: the command, destinations, formats and verification."""

from tests.faults.fault import Fault

FAULTS = (
    # The command.
    Fault(
        "convert: a cast makes weights infinite",
        "convert/__main__.py::cast",
        "(np.isinf(weights[name]) & ~np.isinf(weight)).any()",
        "False",
    ),
    Fault(
        "convert: --weights_only keeps the state of the run",
        "convert/__main__.py::apply_options",
        "config.weights_only or not target.keeps_training",
        "not target.keeps_training",
    ),
    Fault(
        "convert: the second moment is cut from the first",
        "convert/__main__.py::cut_vocabulary",
        "cut(checkpoint.training.exp_avg_sq)",
        "cut(checkpoint.training.exp_avg)",
    ),
    Fault(
        "convert does not say what is left out",
        "convert/__main__.py::convert",
        '[f"{source.name} -> {target.name}", *checkpoint.notes]',
        '[f"{source.name} -> {target.name}"]',
    ),
    # Destinations.
    Fault(
        "--overwrite: the source",
        "convert/destination.py::check_destination",
        "overlap(found, source)",
        "False",
    ),
    Fault(
        "--overwrite: the source under another name",
        "convert/destination.py::overlap",
        """
        if second.exists() and first.samefile(second):
            return True
        """,
        "pass",
    ),
    Fault(
        "--overwrite: links",
        "convert/destination.py::check_destination",
        "found.is_symlink()",
        "False",
    ),
    Fault(
        "--overwrite: folders with anything in them",
        "convert/destination.py::require_model_folder",
        "[name for name in names if not is_of_model(names[name])]",
        "[]",
    ),
    Fault(
        "--overwrite: folders that are no model",
        "convert/destination.py::require_model_folder",
        "require_configuration(folder / CONFIG)",
        "pass",
    ),
    Fault(
        "--overwrite: a checkpoint of a run",
        "convert/destination.py::require_model_folder",
        "STEP_FOLDER.fullmatch(path.name)",
        "STEP_FOLDER.fullmatch(path.suffix)",
    ),
    Fault(
        "--overwrite: files that are no model",
        "convert/destination.py::require_model",
        "registry.detect(found)",
        "pass",
    ),
    Fault(
        "--overwrite: another's FILE.json",
        "convert/destination.py::check_destination",
        "target.has_config_file",
        "False",
    ),
    Fault(
        "--overwrite: devices and pipes",
        "convert/destination.py::require_model",
        "not found.is_file()",
        "False",
    ),
    Fault(
        "a folder that stands aside is not there",
        "convert/destination.py::check_destination",
        "existing_folder(path)",
        "path",
    ),
    Fault(
        "--overwrite: a folder by the name of a file",
        "convert/destination.py::is_of_model",
        "MODEL_FILES.fullmatch(path.name) is not None and not path.is_dir()",
        "MODEL_FILES.fullmatch(path.name) is not None",
    ),
    Fault(
        "--overwrite: the folder above",
        "convert/destination.py::check_destination",
        'destination.name in ("", "..")',
        'destination.name == ""',
    ),
    # Formats.
    Fault(
        "convert: the prefix of a compiled model stays",
        "gpt_common/formats/names.py::WRAPPERS",
        '("_orig_mod.", "module.")',
        '("module.",)',
    ),
    Fault(
        "convert: c_fc is not transposed",
        "gpt_common/formats/names.py::LINEAR",
        r're.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")',
        r're.compile(r"\.(c_attn|c_proj)\.weight$")',
    ),
    Fault(
        "convert: an untied head is taken for a tied one",
        "gpt_common/formats/names.py::hf_weights",
        "not np.array_equal(head, embedding)",
        "head.shape != embedding.shape",
    ),
    Fault(
        "tensors share their numbers",
        "gpt_common/formats/torch_files.py::to_arrays",
        "num_bytes(arrays) > 2 * sum(storages.values())",
        "num_bytes(arrays) < 0",
    ),
    Fault(
        "pickles: tuples in tuples without end",
        "gpt_common/formats/torch_files.py::_check_pickle",
        "stack[-1] > MAX_IN_TUPLE",
        "stack[-1] < 0",
    ),
    Fault(
        "pickles of any length",
        "gpt_common/formats/torch_files.py::_check_pickle",
        "count == MAX_OPCODES",
        "count < 0",
    ),
    Fault(
        "msgpack: maps and lists without end",
        "gpt_common/formats/msgpack_files.py::load",
        "require_few_objects(content)",
        "pass",
    ),
    Fault(
        "orbax: arrays as large as they claim",
        "gpt_common/formats/orbax.py::load",
        "claimed > MAX_COMPRESSION * size",
        "claimed < 0",
    ),
    Fault(
        "FILE.json: the checksum is not checked",
        "gpt_common/formats/base.py::config_of",
        "(got := checksum(path)) != expected",
        "(got := checksum(path)) is None",
    ),
    Fault(
        "FILE.json: what waits is not read",
        "gpt_common/formats/base.py::config_of",
        """
        if belongs_to(_new_config_path(path), path):
            return read_config(_new_config_path(path))
        """,
        "pass",
    ),
    Fault(
        "FILE.json: replaced before its file",
        "gpt_common/formats/base.py::file_with_config",
        "_new_config_path(path)",
        "config_path(path)",
    ),
    Fault(
        "FILE.json: what a killed process left waiting is lost",
        "gpt_common/formats/base.py::file_with_config",
        """
        commit_config(path)
        try:
            with atomic_file(path) as part:
                yield part
                write_config(_new_config_path(path), config, **{CHECKSUM: checksum(part)})
        finally:
            commit_config(path)
        """,
        """
        try:
            with atomic_file(path) as part:
                yield part
                write_config(_new_config_path(path), config, **{CHECKSUM: checksum(part)})
        finally:
            commit_config(path)
        """,
    ),
    Fault(
        "orbax: a full disk is a ValueError",
        "gpt_common/formats/orbax.py::save",
        "OS_ERROR.search(str(error))",
        "OS_ERROR.match(str(error))",
    ),
    Fault(
        "orbax: what its threads write after an error stays",
        "gpt_common/formats/orbax.py::remove_for_good",
        "range(40)",
        "range(1)",
    ),
    Fault(
        "llm.c: the destination is overwritten before the activation is refused",
        "gpt_common/formats/llmc.py::write",
        'require_activation(config, "gelu_new", NAME)',
        """
        with atomic_file(path) as part:
            part.write_bytes(b"half a model")
        require_activation(config, "gelu_new", NAME)
        """,
    ),
    Fault(
        "OpenAI: layers and heads change places",
        "gpt_common/formats/openai.py::FIELDS",
        '"n_layer": "n_layer", "n_head": "n_head"',
        '"n_layer": "n_head", "n_head": "n_layer"',
    ),
    Fault(
        "build-nanogpt: the step is lost",
        "gpt_common/formats/build_nanogpt.py::write",
        "checkpoint.training.step if checkpoint.training else 0",
        "0",
    ),
    Fault(
        "Hub: the configuration is not downloaded",
        "gpt_common/formats/huggingface_hub.py::download",
        '["config.json", pattern]',
        "[pattern]",
    ),
    Fault(
        "a full disk and Ctrl-C are errors of torch's",
        "gpt_common/formats/torch_files.py::save",
        "raise error.__context__ or error from None",
        "raise error",
    ),
    # Verification.
    Fault(
        "verify: the loss is held against the logits' tolerance",
        "convert/verify.py::compare",
        "tolerance.loss",
        "tolerance.logits",
    ),
    Fault(
        "verify: transformers' loss in bfloat16",
        "convert/verify.py::trace_huggingface",
        "model(x).logits.to(master_dtype(dtype))",
        "model(x).logits",
    ),
    Fault(
        "verify: what is below is no difference",
        "convert/verify.py::difference",
        "np.abs(d).max()",
        "d.max()",
    ),
    Fault(
        "verify: the divergence of the reference from the other",
        "convert/verify.py::compare",
        'kl_divergence(reference.layers["logits"], other.layers["logits"])',
        'kl_divergence(other.layers["logits"], reference.layers["logits"])',
    ),
    Fault(
        "verify: the losses change places",
        "convert/verify.py::compare",
        "(reference.loss, other.loss)",
        "(other.loss, reference.loss)",
    ),
    Fault(
        "verify: transformers gets float64 by way of float32",
        "convert/verify.py::huggingface_model",
        'np.float64 if dtype == "float64" else np.float32',
        "np.float32",
    ),
    Fault(
        "verify: a checkpoint is called torch beside another",
        "convert/verify.py::verify",
        'config.checkpoint if config.other else "torch"',
        '"torch"',
    ),
    Fault(
        "verify: targets may be beyond the vocabulary",
        "convert/verify.py::choose_tokens",
        "max(x.max(), y.max())",
        "x.max()",
    ),
    Fault(
        "verify: logits are held to what layers are",
        "convert/verify.py::Tolerance.of",
        'self.logits if layer == "logits" else self.layers',
        "self.layers",
    ),
    Fault(
        "verify: what was noted of a checkpoint is not told",
        "convert/verify.py::load",
        "cli.print_notes(checkpoint.notes)",
        "pass",
    ),
    Fault(
        "the Hub refuses what has been verified",
        "convert/__main__.py::choose_destination",
        "check_repository(repository, config.overwrite)",
        "pass",
    ),
    Fault(
        "a repository that exists is refused after the verification",
        "convert/publish.py::check_repository",
        "not overwrite and hub.repo_exists(repository)",
        "False",
    ),
)
