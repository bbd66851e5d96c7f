"""Faults of the command line and the public names: options, errors, signals and devices."""

from tests.faults.fault import Fault

FAULTS = (
    # Commands and signals.
    Fault(
        "usage is not what one types",
        "gpt_common/cli.py::parse",
        'f"python -m {command}"',
        "command",
    ),
    Fault(
        "SIGHUP ends a run",
        "gpt_common/cli.py::STOP_SIGNALS",
        "signal.SIGHUP",
        "signal.SIGWINCH",
    ),
    Fault(
        "SIGXCPU ends a run",
        "gpt_common/cli.py::STOP_SIGNALS",
        "signal.SIGXCPU",
        "signal.SIGWINCH",
    ),
    Fault(
        "nohup is of no use",
        "gpt_common/cli.py::StopSignal.__enter__",
        "{n: h for n, h in handlers.items() if h is not signal.SIG_IGN}",
        "{n: h for n, h in handlers.items()}",
    ),
    Fault(
        "a second SIGTERM ends a run that is saving",
        "gpt_common/cli.py::StopSignal._handle",
        "self.number = self.number or number",
        """
        if self.number:
            sys.exit(1)
        self.number = number
        """,
    ),
    Fault(
        "a lost console ends a run",
        "gpt_common/cli.py::Stdout._attempt",
        "self.pipe_closed |= isinstance(error, BrokenPipeError)",
        "raise",
    ),
    Fault(
        "`generate | head` ends with an error",
        "gpt_common/cli.py::_run",
        "BrokenPipeError",
        "FileNotFoundError",
    ),
    Fault(
        "error lines may steer the terminal",
        "gpt_common/cli.py::_fail",
        "c.isprintable()",
        "True",
    ),
    Fault(
        "error lines have no end",
        "gpt_common/cli.py",
        "MAX_ERROR_LENGTH = 500",
        "MAX_ERROR_LENGTH = 5000",
    ),
    Fault(
        "memory that cannot be had is a traceback",
        "gpt_common/cli.py::OUT_OF_MEMORY",
        'r"not enough memory|out of memory|RESOURCE_EXHAUSTED|bad_alloc|Unable to allocate"',
        'r"not enough memory|out of memory|bad_alloc|Unable to allocate"',
    ),
    Fault(
        "Ctrl-C is Python's own during the imports",
        "gpt_common/startup.py::prepare",
        "signal.signal(signal.SIGINT, signal.SIG_DFL)",
        "pass",
    ),
    Fault(
        "flax: the command does not ask for optax",
        "gpt_flax/__init__.py",
        'prepare("gpt_flax", "jax", "flax", "optax")',
        'prepare("gpt_flax", "jax")',
    ),
    Fault(
        "Ctrl-C after the imports kills",
        "gpt_common/cli.py::_signals_raise",
        "signal.default_int_handler",
        "signal.SIG_DFL",
    ),
    Fault(
        "signals stay requests after a run",
        "gpt_common/cli.py::StopSignal.__exit__",
        "signal.signal(number, handler)",
        "pass",
    ),
    Fault(
        "a run in another thread fails",
        "gpt_common/cli.py::StopSignal.__enter__",
        "threading.current_thread() is not threading.main_thread()",
        "False",
    ),
    Fault(
        "what a terminal cannot show is a traceback",
        "gpt_common/cli.py::_prepare_streams",
        'stream.reconfigure(errors="replace")',
        "pass",
    ),
    Fault(
        "an error after a signal is not told",
        "gpt_common/cli.py::StopSignal.__exit__",
        "self.number and kind is None",
        "self.number",
    ),
    Fault(
        "a Ctrl-C that is ignored ends the imports",
        "gpt_common/startup.py::prepare",
        "is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler",
        "is_command",
    ),
    Fault(
        "notes are among what a command returns",
        "gpt_common/cli.py::print_notes",
        'print(f"note: {note}", file=sys.stderr)',
        'print(f"note: {note}")',
    ),
    Fault(
        "SIGTERM does not end a command that is no run",
        "gpt_common/cli.py::_signals_raise",
        "_terminate",
        "signal.SIG_IGN",
    ),
    Fault(
        "SIGTERM is taken for the parser's exit",
        "gpt_common/cli.py::_terminate",
        "raise Terminated(number)",
        "sys.exit(128 + number)",
    ),
    Fault(
        "a signal is raised after the command too",
        "gpt_common/cli.py::_signals_raise",
        """
        for number in default:
            signal.signal(number, signal.SIG_DFL)
        """,
        "pass",
    ),
    # Options and errors.
    Fault(
        "exact: bfloat16 is taken",
        "gpt_common/config.py::require_exact",
        'dtype in ("bfloat16", "float16", "tf32")',
        'dtype in ("float16", "tf32")',
    ),
    Fault(
        "a run's options may be of any type",
        "gpt_common/config.py::_group_from_dict",
        "not _has_type(value, hints[name])",
        "False",
    ),
    Fault(
        "control characters of a file reach the terminal",
        "gpt_common/errors.py::printable",
        'c if c.isprintable() else c.encode("unicode_escape").decode()',
        "c",
    ),
    Fault(
        "what is shown of a file has no end",
        "gpt_common/errors.py::printable",
        "text[:max_length]",
        "text",
    ),
    Fault(
        "keep_last may be negative",
        "gpt_common/config.py::OutputOptions.__post_init__",
        '("eval_every", "sample_every", "checkpoint_every", "keep_last")',
        '("eval_every", "sample_every", "checkpoint_every")',
    ),
    Fault(
        "eval_steps may be 0",
        "gpt_common/config.py::OutputOptions.__post_init__",
        'require_positive("eval_steps", self.eval_steps)',
        "pass",
    ),
    Fault(
        "a seed may be negative",
        "gpt_common/config.py::RuntimeOptions.__post_init__",
        'require_not_negative("seed", self.seed)',
        "pass",
    ),
    Fault(
        "all may be kept for validation",
        "gpt_common/config.py::DataOptions.__post_init__",
        'require_fraction("val_fraction", self.val_fraction)',
        "pass",
    ),
    Fault(
        "min_lr may be negative",
        "gpt_common/config.py::OptimizerOptions.__post_init__",
        '("learning_rate", "min_lr", "warmup_steps", "weight_decay", "grad_clip")',
        '("learning_rate", "warmup_steps", "weight_decay", "grad_clip")',
    ),
    Fault(
        "a number may be infinite in float32",
        "gpt_common/errors.py::require_finite",
        "not abs(value) <= FLOAT32_MAX",
        "value != value",
    ),
    Fault(
        "a run's whole number stays one where a float is due",
        "gpt_common/config.py::_group_from_dict",
        "float(v) if hints[n] is float else v",
        "v",
    ),
    # Devices.
    Fault(
        "torch: auto is bfloat16 on a processor too",
        "gpt_torch/device.py::has_bfloat16",
        'device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)',
        'device.type != "mps"',
    ),
    Fault(
        "flax: auto finds no bfloat16 on an A100",
        "gpt_flax/device.py::has_bfloat16",
        'float(getattr(device, "compute_capability", 0)) >= 8',
        'float(getattr(device, "compute_capability", 0)) >= 9',
    ),
    Fault(
        "torch: a GPU without bfloat16 computes in it",
        "gpt_torch/device.py::check_dtype",
        'device_type == "cuda"',
        'device_type == "mps"',
    ),
    Fault(
        "torch: mps computes in float64",
        "gpt_torch/device.py::check_dtype",
        'device_type == "mps" and dtype == "float64"',
        'device_type == "cuda" and dtype == "float64"',
    ),
    Fault(
        "flax: a step on a CPU has memory of its own",
        "gpt_flax/device.py::select_device",
        'jax.config.update("jax_cpu_enable_async_dispatch", False)',
        "pass",
    ),
    Fault(
        "flax: --device cpu takes most of a GPU's memory",
        "gpt_flax/device.py::select_device",
        'jax.config.update("jax_platforms", "cpu")',
        "pass",
    ),
    Fault(
        "flax: the folder that the user names for compiled programs is not taken",
        "gpt_flax/device.py::enable_compilation_cache",
        '"JAX_COMPILATION_CACHE_DIR" not in os.environ',
        "True",
    ),
    Fault(
        "torch: TensorFloat-32 also where dtype is float32",
        "gpt_torch/device.py::select_device",
        '"high" if dtype == "tf32" else "highest"',
        '"high"',
    ),
    Fault(
        "flax: TensorFloat-32 also where dtype is float32",
        "gpt_flax/device.py::select_device",
        '"tensorfloat32" if dtype == "tf32" else "highest"',
        '"tensorfloat32"',
    ),
    # gpt-twins and the public names.
    Fault(
        "gpt-twins keeps --framework among the flags of the module",
        "gpt_common/commands.py::take_framework",
        "found.framework, others",
        "found.framework, list(args)",
    ),
    Fault(
        "gpt-twins takes part of a flag for --framework",
        "gpt_common/commands.py::take_framework",
        "argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)",
        "argparse.ArgumentParser(add_help=False, exit_on_error=False)",
    ),
    Fault(
        "gpt-twins needs torch to train in Flax",
        "gpt_common/commands.py::module_of",
        '"torch" if importlib.util.find_spec("torch") else "flax"',
        '"torch"',
    ),
    Fault(
        "gpt-twins ignores a --framework that has no effect",
        "gpt_common/commands.py::module_of",
        "not command.has_framework and framework is not None",
        "False",
    ),
    Fault(
        "usage is not what was typed of gpt-twins",
        "gpt_common/commands.py::select",
        'cli.typed_as = f"gpt-twins {name}"',
        "pass",
    ),
    Fault(
        "a module of gpt-twins does not know that it is a command",
        "gpt_common/commands.py::select",
        'sys.argv = ["-m", *rest]',
        'sys.argv = ["gpt-twins", *rest]',
    ),
    Fault(
        "a narrow terminal cuts off digits",
        "gpt_common/progress.py::table_console",
        "max(TABLE_WIDTH, console.width)",
        "console.width",
    ),
    Fault(
        "zsh completes to a description's second line",
        "gpt_common/commands.py::with_one_line_descriptions",
        r'spec[0].replace(r"\n", " ")',
        "spec[0]",
    ),
    Fault(
        "choices are in another order in each run",
        "gpt_common/config.py::DtypeOption",
        'Literal["auto", Dtype]',
        'Literal["auto"] | Dtype',
    ),
    Fault(
        "a text of no source is evaluated by another's flags",
        "gpt_common/config.py::_require_with",
        "value != option.default",
        "False",
    ),
    Fault(
        "a prompt that is not read is taken",
        "gpt_common/config.py::PromptOptions.__post_init__",
        "sum(given.values()) > 1",
        "False",
    ),
    Fault(
        "--init ignores --preset",
        "gpt_common/run.py::check_shape",
        "options.gpt_config() != found",
        "False",
    ),
    Fault(
        "no shell completes --framework",
        "gpt_common/commands.py::completed",
        "command.has_framework",
        "False",
    ),
    Fault(
        "gpt_torch.generate is the module, once that has been imported",
        "gpt_common/lazy.py::LazyPackage.__setattr__",
        "getattr(value, name)",
        "value",
    ),
    Fault(
        "a shell completes no public name",
        "gpt_common/lazy.py::LazyPackage.__dir__",
        "{*super().__dir__(), *self.modules_by_name}",
        "super().__dir__()",
    ),
    Fault(
        "load does not say that it skips a damaged checkpoint",
        "gpt_torch/generate.py::load",
        "warnings.warn(note, stacklevel=2)",
        "pass",
    ),
    Fault(
        "load ignores the device",
        "gpt_flax/generate.py::load",
        "select_device(device, dtype)",
        'select_device("auto", dtype)',
    ),
    Fault(
        "load in Flax is float32 in any dtype",
        "gpt_flax/generate.py::load",
        "load_model(checkpoint, dtype)",
        'load_model(checkpoint, "float32")',
    ),
)
