"""Write the peak memory that the tests expect: `python -m tests.gpu_proof.report`."""

import json

from tests.gpu_proof import test_flax


def main() -> None:
    """Compile each case, and write its peak to `peaks.json`."""
    peaks = dict(test_flax.PEAKS)
    for card, dtype, B in test_flax.PEAK_CASES:
        name = test_flax.peak_name(card, dtype, B)
        peaks[name] = test_flax.compiled_step(card, dtype, B).peak
        print(f"{name}: {peaks[name] / 1e9:.2f} GB", flush=True)
    test_flax.PEAKS_FILE.write_text(json.dumps(peaks, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
