"""Faults of what a command says of itself."""

from tests.faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "usage is not what one types",
        "gpt_common/cli.py",
        'prog=f"python -m {command}"',
        "prog=command",
    ),
    Fault(
        "flax: usage names the other twin",
        "gpt_flax/generate.py",
        'cli.parse(GenerateConfig, "gpt_flax.generate")',
        'cli.parse(GenerateConfig, "gpt_torch.generate")',
    ),
    Fault(
        "a package alone forgets one of its commands",
        "benchmarks/__main__.py",
        '    "plot_losses",\n',
        "",
    ),
    Fault(
        "a step's line wraps at 80 columns",
        "gpt_common/metrics.py",
        "{1000 * seconds:4.0f} ms",
        "{1000 * seconds:7.1f} ms",
    ),
    Fault(
        "benchmarks: a program without its framework shows Python's words",
        "benchmarks/workers/session.py",
        "    cli.run(main)",
        "    main()",
    ),
)
