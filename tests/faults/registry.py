"""All known faults, one module for each area of the project."""

from tests.faults import (
    benchmarks,
    checkpoint,
    cli,
    convert,
    data,
    exact,
    generation,
    model,
    nanogpt,
    operations,
    run,
    sampling,
    tokenizer,
    training,
)

AREAS = (
    model,
    operations,
    training,
    sampling,
    generation,
    exact,
    data,
    tokenizer,
    run,
    checkpoint,
    convert,
    nanogpt,
    cli,
    benchmarks,
)
FAULTS = tuple(fault for area in AREAS for fault in area.FAULTS)
