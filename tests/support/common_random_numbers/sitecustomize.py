"""Put on PYTHONPATH, makes sampling independent of how prompts are spread over processes.

The k-th token of a completion is drawn with noise that depends on k and on whether the completion's
row is even or odd, and on nothing else: so a GRPO run of one process and one of two processes draw
the same completions (two for each prompt), and their losses can be compared.
"""

import sys

import torch

_length, _k = -1, 0


def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
    global _length, _k
    length = sys._getframe(1).f_locals["input_ids"].shape[1]  # of transformers' sampling loop
    _k = _k + 1 if length == _length + 1 else 0
    _length = length
    drawn = []
    for row, p in enumerate(probabilities):
        generator = torch.Generator().manual_seed(1000 * (_k + 1) + row % 2)
        exponential = torch.empty(p.shape, dtype=p.dtype).exponential_(generator=generator)
        drawn.append((p.log() - exponential.log()).argmax())  # Gumbel's trick
    return torch.stack(drawn)[:, None]


torch.multinomial = multinomial
