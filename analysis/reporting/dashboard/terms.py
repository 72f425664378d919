"""What the words of the report mean, in plain text: the page shows it on hover, docs/report.md has
the same sentences (tests/test_docs.py holds it to them)."""

from __future__ import annotations

TERMS = {
    "base": "The model that the training started from, at step 0. Everything but turnover is a "
    "comparison with it.",
    "circuit": "The strongest edges between attention heads, MLPs, embedding and logits on a fixed "
    "set of prompt pairs. A head is in the circuit if one of these edges ends or begins at it.",
    "emergent": "In the checkpoint's circuit and not in the base's.",
    "retained": "In the checkpoint's circuit and in the base's.",
    "pruned": "In the base's circuit and not in the checkpoint's.",
    "transient": "In neither the base's circuit nor the checkpoint's, but in that of a checkpoint "
    "between.",
    "changed": "Not the head that it was, though it stands in the same place: the cosine of its "
    "o_proj columns with the base's is below 0.5, or the correlation of its attention patterns on "
    "the clean prompts (beyond what its layer's heads have in common in the base); the upper "
    "end of the interval is.",
    "interval": "A 95 % bootstrap interval, of heads over the prompt pairs, of pass@1 over the "
    "problems. Pairs that share a prompt are one draw.",
    "by chance": "What two resamples of the pairs give at the base itself, where nothing has "
    "changed.",
    "called": "A change of a head that is more than noise of the pairs: its margin differs from "
    "the base's at a false-discovery rate of 5 % over all heads at all checkpoints of the run (or "
    "as tracking.fdr says), and it holds in 85 % of the resamples. More checkpoints can change "
    "what an earlier one calls.",
    "settled": "Called at two checkpoints in a row (or as tracking.hysteresis says); it ends when "
    "two in a row do not have the change.",
    "inclusion": "The share of the resamples of the pairs in which a head is in the circuit.",
    "importance": "A head's share of the attribution that leaves heads along the circuit's edges.",
    "effect": "E = (I - I of the base) / (I + I of the base), I being a head's importance: -1 "
    "where it has lost all of it, 1 where it had none.",
    "margin": "The logarithm of a head's strength over the weakest that is in the circuit: above 0 "
    "the head is in, below it is out.",
    "p": "How likely so large a change of a head's margin is if only the pairs differ; 1 where the "
    "head is in or out as at the base.",
    "turnover": "The share of the heads in either circuit that are not in both, from one "
    "checkpoint to the next: 1 less the Jaccard index.",
    "excess turnover": "Turnover less what resampling the pairs at one checkpoint gives by itself: "
    "if its interval lies above 0, the circuit has moved.",
    "Jaccard": "How alike two circuits are: the heads in both over the heads in either.",
    "weighted overlap": "How alike two circuits are, by importance: the sum of the smaller "
    "importances over the sum of the larger ones.",
    "faithfulness": "1 if the circuit by itself does what the model does, 0 if it does no better "
    "than no circuit. Each pair is measured under a circuit whose edges the other half of the "
    "pairs ranked.",
    "size": "Edges of the smallest circuit that reaches the faithfulness that was asked for, "
    "before pruning, found anew in each resample of the pairs.",
    "gap": "How far the metric tells the corrupted prompts from the clean ones. Where it is not "
    "above 0 beyond its sampling error the model lacks the behaviour and has no circuit.",
    "completeness gap": "The share of the metric's change between the prompts of a pair that the "
    "scores leave unexplained; above 10 % importances are no amounts and are left out.",
    "KL from the base": "KL(checkpoint || base) of the next-token distributions where the metric "
    "is read on the clean prompts, in nats: how far the model has moved.",
    "pass@1": "The share of problems that are answered rightly, in the mean over the samples of "
    "each.",
    "signal": "The loss or the reward that the trainer logged, in the mean since the checkpoint "
    "before.",
    "edge": "What one part of the model reads of what another has written. Its score is how much "
    "of the change between the prompts of a pair it carries, in the units of the metric, in the "
    "mean over pairs.",
    "pattern": "The share of its attention that a head pays to each token of a clean prompt, from "
    "the positions where the metric is read.",
    "previous token": "Attention from each token to the one before it (Olsson et al. 2022, arXiv "
    "2209.11895).",
    "induction": "Attention from each token that has come before to the tokens after its earlier "
    "occurrences: prefix matching (Olsson et al. 2022, arXiv 2209.11895).",
    "to operands": "Attention from the positions where the metric is read to the tokens with a "
    "digit in the question, after what all prompts begin with (as Stolfo et al. 2023, arXiv "
    "2305.15054).",
    "to answer": "Attention from the positions where the metric is read to the part of the answer "
    "that the prompt gives, the reading token included.",
    "to think tag": "Attention from the positions where the metric is read to <think> and "
    "</think>.",
    "copying": "Sum over absolute sum of the eigenvalues of W_U W_OV W_E: of the weights, so "
    "without an interval (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).",
    "receiver kurtosis": "Excess kurtosis of the mean attention that a sentence gets from those "
    "four or more further on (Bogdan et al. 2025, arXiv 2506.19143); over single tokens where "
    "prompts have fewer than 12 sentences.",
}
