"""Answers of transformers: the distribution, each request's own noise, where an answer ends."""

from __future__ import annotations

import torch

from analysis.evaluation.asking import requests_of
from analysis.evaluation.sampling import (
    GumbelNoise,
    Request,
    Sampling,
    processors,
    sample,
    seed_of,
)
from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem
from tests.support.evaluations import load


def asked(tokenizer, count=6, samples=2) -> list[Request]:
    problems = [Problem(f"{n}+{n}=?", str(2 * n)) for n in range(10, 10 + count)]
    return requests_of(tokenizer, problems, Prompting(), samples)


def test_gumbel_noise_draws_from_the_distribution():
    """40,000 draws: frequencies are the softmax at the temperature, cut at top-p."""
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    sampling = Sampling(temperature=0.8, top_p=0.9)
    probabilities = torch.softmax(logits / 0.8, 0)
    kept = probabilities.cumsum(0) - probabilities < 0.9  # descending already
    wanted = torch.where(kept, probabilities, 0.0) / probabilities[kept].sum()
    rows = 40_000
    process = processors(sampling, range(rows), torch.device("cpu"))
    drawn = process(torch.zeros(rows, 1, dtype=torch.long), logits.repeat(rows, 1)).argmax(-1)
    share = torch.bincount(drawn, minlength=5) / rows
    error = (wanted * (1 - wanted) / rows).sqrt()
    assert ((share - wanted).abs() <= 4 * error + 1e-9).all()
    assert share[~kept].sum() == 0


def test_noise_is_a_rows_own():
    scores = torch.zeros(3, 7)
    together = GumbelNoise([1, 2, 3], torch.device("cpu"))(None, scores)
    alone = GumbelNoise([2], torch.device("cpu"))(None, scores[:1])
    assert torch.equal(together[1:2], alone)
    assert len(torch.unique(together)) == 21


def test_seeds_are_of_problem_and_sample():
    seeds = {seed_of(s, Request(p, k, "")) for s in (0, 1) for p in range(20) for k in range(5)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_sampling_is_reproducible_and_leaves_no_trace(tiny_dir):
    model, tokenizer = load(tiny_dir)
    model.train()
    requests = asked(tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = sample(model, tokenizer, requests, sampling, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert sample(model, tokenizer, requests, sampling, seed=0) == first
    assert sample(model, tokenizer, requests, sampling, seed=1) != first
    alone = [sample(model, tokenizer, [request], sampling, 0)[0] for request in requests]
    assert alone == first  # whatever is decoded beside it
    assert len({completion.text for completion in first[:2]}) == 2  # two samples of one problem


def test_the_models_own_settings_do_not_act(tiny_dir):
    model, tokenizer = load(tiny_dir)
    requests = asked(tokenizer, 3, 1)
    sampling = Sampling(temperature=0.9, max_new_tokens=8)
    first = sample(model, tokenizer, requests, sampling, seed=0)
    model.generation_config.update(
        repetition_penalty=5.0,
        top_k=1,
        do_sample=True,
        no_repeat_ngram_size=1,
        temperature=0.01,
        suppress_tokens=list(range(40)),
        min_new_tokens=7,
        bad_words_ids=[[45]],
        guidance_scale=3.0,
    )
    own = model.generation_config
    assert sample(model, tokenizer, requests, sampling, seed=0) == first
    assert model.generation_config is own


def test_the_end_of_a_turn_ends_an_answer(tiny_dir):
    """Also where the tokenizer's own end is another token, as for a base model."""
    from analysis.prompts.turns import end_of_turn, ends_of

    model, tokenizer = load(tiny_dir)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(tokenizer) == end
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    own = model.generation_config.eos_token_id
    assert ends_of(tokenizer, own) == sorted({end, tokenizer.eos_token_id})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer) is None
