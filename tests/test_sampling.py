import numpy as np
import pytest

from gpt_common.config import GPTConfig, SamplingOptions
from gpt_common.errors import InputError
from gpt_common.sampling import prompt_tokens, sample, uniforms


def test_a_draw_depends_on_seed_sample_and_position_alone():
    draws = uniforms(5, 4, 30)
    assert (uniforms(5, 2, 12) == draws[:2, :12]).all()
    assert not (uniforms(6, 4, 30) == draws).any()
    assert len(np.unique(draws)) == draws.size


def test_draws_are_uniform():
    draws = uniforms(1, 50, 1000)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, 10, (0, 1))
    assert abs(counts - 5000).max() < 5 * np.sqrt(5000)


def test_an_empty_prompt_starts_a_text():
    assert prompt_tokens(SamplingOptions(prompt=""), GPTConfig()) == [50256]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SamplingOptions(max_length=24), "at most block_size 23, got 24"),
        (SamplingOptions(max_length=8), "above the prompt's 8 tokens, got 8"),
        (SamplingOptions(max_length=20), "below vocab_size 997, got 15496"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(options, words, odd_config):
    with pytest.raises(InputError, match=words):
        prompt_tokens(options, odd_config)


def test_samples_are_where_the_cumulative_probability_says():
    probabilities = np.array([0.1, 0.4, 0.2, 0.2, 0.1])  # order: 1, 2, 3, 0, 4
    draws = np.array([0, 0.39, 0.41, 0.59, 0.61, 0.79, 0.81, 0.89, 0.91, 0.999])
    logits = np.tile(np.log(probabilities), (10, 1))
    expected = [1, 1, 2, 2, 3, 3, 0, 0, 4, 4]
    assert sample(logits, draws, 0, 1.0).tolist() == expected


def test_top_k_keeps_the_most_probable():
    logits = np.log(np.tile(np.array([0.1, 0.4, 0.2, 0.2, 0.1]), (100, 1)))
    draws = np.linspace(0, 0.9999, 100)
    tokens = sample(logits, draws, 2, 1.0)
    assert tokens.tolist() == [1] * 67 + [2] * 33  # 0.4 to 0.2
    assert set(sample(logits, draws, 100, 1.0)) == {0, 1, 2, 3, 4}


def test_temperature():
    logits = np.tile(np.array([0, 1, 0.5]), (1000, 1))
    draws = np.linspace(0, 0.9999, 1000)
    assert set(sample(logits, draws, 0, 0.0)) == {1}
    cold, warm = (sample(logits, draws, 0, t) for t in (0.25, 4.0))
    for tokens, temperature in ((cold, 0.25), (warm, 4.0)):
        weights = np.exp(np.array([0, 1, 0.5]) / temperature)
        assert (tokens == 1).mean() == pytest.approx(weights[1] / weights.sum(), abs=2e-3)
