"""All known faults, one module for each area of the project."""

from tests.faults import (
    benchmarks,
    checkpoint,
    cli,
    convert,
    data,
    evaluation,
    exact,
    fast,
    generation,
    gpu,
    model,
    nanogpt,
    parallel,
    prepare,
    run,
    sampling,
    tokenizer,
    training,
)

AREAS = (
    model,
    fast,
    training,
    sampling,
    generation,
    gpu,
    exact,
    data,
    prepare,
    tokenizer,
    evaluation,
    run,
    parallel,
    checkpoint,
    convert,
    nanogpt,
    cli,
    benchmarks,
)
FAULTS = tuple(fault for area in AREAS for fault in area.FAULTS)
