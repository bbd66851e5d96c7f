"""Faults of checkpoints, and files that are written whole or not at all."""

from tests.faults.fault import Fault

FAULTS = (
    # Checkpoints.
    Fault(
        "checkpoint: the moments change places on the way in",
        "gpt_common/checkpoint.py::_read_training",
        'f"exp_avg_sq.{name}"',
        'f"exp_avg.{name}"',
    ),
    Fault(
        "checkpoint: --keep_last keeps one more",
        "gpt_common/run_folder.py::remove_older",
        "found[:until][:-keep_last]",
        "found[:until][: -keep_last - 1]",
    ),
    Fault(
        "config.json: no end of text",
        "gpt_common/hf_config.py::config_to_hf",
        "tokenizer.END_OF_TEXT_TOKEN if has_end else None",
        "None",
    ),
    Fault(
        "no tokenizer beside a padded vocabulary",
        "gpt_common/checkpoint.py::write_config_and_tokenizer",
        "config.vocab_size >= tokenizer.VOCAB_SIZE",
        "config.vocab_size == tokenizer.VOCAB_SIZE",
    ),
    Fault(
        "an empty activation is taken for the default",
        "gpt_common/hf_config.py::config_from_hf",
        "ACTIVATION_ALIASES.get(activation, activation)",
        'ACTIVATION_ALIASES.get(activation, activation or "gelu_new")',
    ),
    Fault(
        "a link to itself is followed",
        "gpt_common/run_folder.py::_resolved",
        "Path(os.path.realpath(path))",
        "path.resolve()",
    ),
    Fault(
        "config.json: transformers trains with dropout",
        "gpt_common/hf_config.py::config_to_hf",
        'dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)',
        'dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.1)',
    ),
    Fault(
        "config.json: n_ctx is always 1024",
        "gpt_common/hf_config.py::config_to_hf",
        "config.block_size",
        "1024",
    ),
    Fault(
        "config.json: a model without a head",
        "gpt_common/hf_config.py::config_to_hf",
        '["GPT2LMHeadModel"]',
        '["GPT2Model"]',
    ),
    Fault(
        "config.json: cross-attention is passed over",
        "gpt_common/hf_config.py::FIXED",
        '"add_cross_attention": False',
        "**{}",
    ),
    Fault(
        "config.json: attention without a scale is read",
        "gpt_common/hf_config.py::FIXED",
        '"scale_attn_weights": True',
        "**{}",
    ),
    Fault(
        "config.json: gelu_pytorch_tanh is the erf form",
        "gpt_common/hf_config.py::ACTIVATION_ALIASES",
        '{"gelu_pytorch_tanh": "gelu_new"}',
        '{"gelu_pytorch_tanh": "gelu"}',
    ),
    Fault(
        "a run without log and latest is none",
        "gpt_common/run_folder.py::is_run",
        "marks or bool(run_checkpoints(folder))",
        "marks",
    ),
    Fault(
        "a run with latest alone is none",
        "gpt_common/run_folder.py::is_run",
        "(folder / LATEST).is_symlink() or (folder / LOG).exists()",
        "(folder / LOG).exists()",
    ),
    Fault(
        "a run with a log alone is none",
        "gpt_common/run_folder.py::is_run",
        "(folder / LATEST).is_symlink() or (folder / LOG).exists()",
        "(folder / LATEST).is_symlink()",
    ),
    Fault(
        "a run has the options of its oldest checkpoint",
        "gpt_common/checkpoint.py::read_options",
        """
        for folder in newer:
            with contextlib.suppress(InputError, OSError):
                return folder, _options(folder)
        """,
        """
        for folder in ():
            with contextlib.suppress(InputError, OSError):
                return folder, _options(folder)
        """,
    ),
    Fault(
        "a run whose newest state is damaged has no options",
        "gpt_common/checkpoint.py::read_options",
        "*newer, oldest = checkpoint_folders(Path(path))",
        "newer, (oldest, *_) = [], checkpoint_folders(Path(path))",
    ),
    Fault(
        "checkpoint: no zeros for transformers, which always has biases",
        "gpt_common/checkpoint.py::write_checkpoint",
        "with_zero_biases(checkpoint.weights, checkpoint.config)",
        "checkpoint.weights",
    ),
    Fault(
        "checkpoint: the configuration never says that there are no biases",
        "gpt_common/hf_config.py::config_to_hf",
        "config.bias",
        "True",
    ),
    Fault(
        "a damaged newest checkpoint is an error",
        "gpt_common/checkpoint.py::read_checkpoint",
        "errors.append(str(error))",
        "raise",
    ),
    Fault(
        "later steps of a run that went back are the newest",
        "gpt_common/run_folder.py::checkpoint_folders",
        "step_of(folder) > step_of(latest)",
        "step_of(folder) < step_of(latest)",
    ),
    Fault(
        "a state's object may be anything",
        "gpt_common/checkpoint.py::_object",
        "not isinstance(value, dict)",
        "value is None",
    ),
    # Files.
    Fault(
        "a file has its place before it is on the disk",
        "gpt_common/storage.py::atomic_file",
        "sync(part)",
        "pass",
    ),
    Fault(
        "safetensors are not aligned",
        "gpt_common/storage.py::write_safetensors",
        'b" " * (-len(content) % 8)',
        'b""',
    ),
    Fault(
        "one map a tensor",
        "gpt_common/storage.py::_tensor",
        "content",
        "map_file(path)",
    ),
    Fault(
        "pipes and devices are opened",
        "gpt_common/storage.py::require_file",
        "not path.is_file()",
        "path.is_dir()",
    ),
    Fault(
        "JSON of any length",
        "gpt_common/storage.py::read_json",
        "(size := path.stat().st_size) > MAX_JSON_BYTES",
        "(size := path.stat().st_size) < 0",
    ),
    Fault(
        "a header of any length",
        "gpt_common/storage.py::read_safetensors",
        "length > MAX_HEADER_BYTES",
        "length < 0",
    ),
    Fault(
        "a folder that stands aside stays in the way",
        "gpt_common/storage.py::atomic_folder",
        """
        recover_folder(folder)
        part = temporary_path(folder)
        """,
        "part = temporary_path(folder)",
    ),
    Fault(
        "a folder's files go before its name does",
        "gpt_common/storage.py::remove_folder",
        "sync(folder.parent)",
        "pass",
    ),
)
