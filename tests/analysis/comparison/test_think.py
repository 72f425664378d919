"""Thinking on and off: prompts of both modes, pairs of the same problems, exclusive heads."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands import evaluate
from analysis.commands.think import CLEAN_START, CORRUPTED_START, Options, act, build_pairs
from analysis.comparison.subjects import read_subject
from analysis.comparison.thinking import compare_modes
from analysis.detection.detect import anatomy
from analysis.interventions.head_sets import parse_heads
from analysis.prompts.chat import Prompting
from analysis.prompts.pair_building import (
    answer_style_pairs,
    common_counterfactual_pairs,
    counterfactual_pairs,
)
from analysis.prompts.problems import Problem, generate
from analysis.records.record import Record
from analysis.records.record_files import read_record
from analysis.reporting.report import write_report
from analysis.trajectories.run import Run
from tests.support.known_circuit import HEADS, PROBLEMS, build_copier
from tests.support.places import ROOT
from tests.support.planted import World, make_record
from train.recipes.tiny import CHAT_TEMPLATE, build_tokenizer

ASKED = "<|im_start|>user\n1+1=?<|im_end|>\n<|im_start|>assistant\n"
SWITCH = CHAT_TEMPLATE[CHAT_TEMPLATE.index("{%- if enable_thinking") :]
UNSWITCHED = CHAT_TEMPLATE.replace(SWITCH, "{%- endif %}\n")
OPENING = CHAT_TEMPLATE.replace(SWITCH, "{{- '<think>\\n' }}\n{%- endif %}\n")
EMPTY = "<think>\n\n</think>\n\n"
FAST = ["size=6", "tracking.resamples=40", "tracking.ig_steps=2"]


def with_template(template: str):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "think", "expected"),
    [
        (CHAT_TEMPLATE, None, ""),
        (CHAT_TEMPLATE, "on", ""),
        (CHAT_TEMPLATE, "off", EMPTY),
        (UNSWITCHED, None, ""),
        (UNSWITCHED, "on", ""),
        (UNSWITCHED, "off", EMPTY),
        (OPENING, None, "<think>\n"),
        (OPENING, "on", "<think>\n"),
        (OPENING, "off", EMPTY),
    ],
)
def test_prompts_of_each_mode(template, think, expected):
    tokenizer = with_template(template)
    assert Prompting(think=think).text(tokenizer, "1+1=?") == ASKED + expected
    started = Prompting(think=think, prefix="The answer").text(tokenizer, "1+1=?")
    assert started == ASKED + expected + "The answer"


def test_think_stands_above_the_template_options_and_is_checked():
    ask = Prompting(template_options={"enable_thinking": False}, think="on")
    assert ask.text(build_tokenizer(), "1+1=?") == ASKED
    with pytest.raises(ValueError, match="think is 'yes'; choose on, off"):
        Prompting(think="yes")


def questions(tokenizer, pairs):
    return [
        [re.search(r"user\n(.*?)<", tokenizer.decode(list(ids))).group(1) for ids in both]
        for both in ((pair.clean_ids, pair.corrupted_ids) for pair in pairs)
    ]


@pytest.mark.parametrize("kind", ["counterfactual", "answer_style"])
def test_both_modes_ask_the_same_problems_in_the_same_order(kind):
    tokenizer = build_tokenizer()
    options = parse(Options, ["model=m", "out=o", f"kind={kind}", "size=9", "seed=3"])
    pairs = build_pairs(options, tokenizer)
    assert questions(tokenizer, pairs["on"]) == questions(tokenizer, pairs["off"])
    for on, off in zip(pairs["on"], pairs["off"], strict=True):
        assert (on.target_id, on.foil_id) == (off.target_id, off.foil_id)
        for shown, hidden in ((on.clean_ids, off.clean_ids), (on.corrupted_ids, off.corrupted_ids)):
            start = "assistant\n"
            text, other = tokenizer.decode(list(shown)), tokenizer.decode(list(hidden))
            assert other == text.replace(start, start + EMPTY)
    alone = counterfactual_pairs if kind == "counterfactual" else answer_style_pairs
    given = (9, "<answer>") if kind == "counterfactual" else (CLEAN_START, CORRUPTED_START, 8)
    wanted = 40 * 9 if kind == "counterfactual" else 9
    problems = generate("arithmetic", wanted, 3, "pairs", distinct=True)
    assert pairs["on"].hash == alone(tokenizer, problems, Prompting(), *given).hash


def merging_tokenizer():
    """Without thinking its template ends in x, and x followed by y is one token."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(build_tokenizer().backend_tokenizer.to_str())
    content["model"]["vocab"]["xy"] = 1000
    content["model"]["merges"] = [["x", "y"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        chat_template=CHAT_TEMPLATE.replace("<think>\\n\\n</think>\\n\\n", "x"),
    )


def test_a_problem_that_one_mode_can_not_use_is_left_out_of_both():
    tokenizer = merging_tokenizer()
    answers = ["y", "a", "y", "b", "c", "a", "y", "b", "a", "c"]
    problems = [Problem(f"{i}?", answer) for i, answer in enumerate(answers)]
    modes = [Prompting(think=mode) for mode in ("on", "off")]
    on, off = (counterfactual_pairs(tokenizer, problems, ask, 3, "") for ask in modes)
    assert questions(tokenizer, on) != questions(tokenizer, off)  # chosen apart, they differ
    both = common_counterfactual_pairs(tokenizer, problems, modes, 3, "")
    asked = [questions(tokenizer, pairs) for pairs in both]
    assert asked[0] == asked[1] == questions(tokenizer, off)
    used = {int(question[0]) for pair in asked[0] for question in pair}
    assert used == {1, 3, 4, 5, 7, 8}
    with pytest.raises(
        ValueError, match="10 distinct problems gave only 3 counterfactual pairs of 4"
    ):
        common_counterfactual_pairs(tokenizer, problems, modes, 4, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["kind=style"], "kind is 'style'; choose one of: counterfactual, answer_style"),
        (["size=0"], "size must be at least 1"),
        (["options=3"], "write 'options={terms: 3}'"),
        (["dtype=int8"], "unknown dtype 'int8'"),
        (["model=/no/such/place"], "there is no directory /no/such/place"),
        (["source=chess"], "unknown source of problems 'chess'"),
        (["tracking.method=EAP"], "EAP with kl scores every edge 0"),
        (["cut_solution_after=never"], "gave only 0 counterfactual pairs of 6"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(tiny_dir, tmp_path, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        act(parse(Options, [f"model={tiny_dir}", f"out={tmp_path}/o", *FAST, *given]))
    assert not (tmp_path / "o").exists()


def test_defaults_are_those_of_conf():
    from omegaconf import OmegaConf

    options = Options("m", "o")
    saved = OmegaConf.load(ROOT / "conf" / "pairs" / "counterfactual.yaml")
    assert (saved.prefix, saved.cut_solution_after) == (options.prefix, options.cut_solution_after)
    saved = OmegaConf.load(ROOT / "conf" / "pairs" / "answer_style.yaml")
    assert (saved.clean_start, saved.corrupted_start) == (CLEAN_START, CORRUPTED_START)
    assert saved.prefix_tokens == options.prefix_tokens


def test_end_to_end_and_started_again(tiny_dir, tmp_path, capsys, monkeypatch):
    """Two ordinary runs, one comparison; what is there is not measured again."""
    monkeypatch.setattr(Record, "lacks_behaviour", False)  # which random weights do
    out = tmp_path / "think"
    arguments = [f"model={tiny_dir}", f"out={out}", "options={terms: 2}", *FAST]
    act(parse(Options, arguments))
    first = capsys.readouterr().out
    assert "2 modes, 0 of them measured already" in first
    for mode in ("on", "off"):
        assert [row.step for row in Run.read(out / mode).rows] == [0]
        assert read_subject("a", str(out / mode)).label == f"{mode}@0"
        assert write_report([Run.read(out / mode)], tmp_path / f"{mode}.html").exists()
    result = json.loads((out / "think.json").read_text())
    lists = {
        name: json.loads((out / "heads" / f"{name}.json").read_text())["heads"]
        for name in ("think-on-only", "think-off-only", "both")
    }
    inside = {}
    for mode in ("on", "off"):
        record = read_record(out / mode, 0)
        names = [f"L{i // 8}H{i % 8}" for i in record.in_circuit.nonzero().flatten().tolist()]
        inside[mode] = set(names)
        assert names
        assert result["modes"][mode]["heads"]["value"] == len(names)
        weight = dict(
            zip((f"L{i // 8}H{i % 8}" for i in range(32)), record.importance.tolist(), strict=True)
        )
        exclusive = [weight[name] for name in lists[f"think-{mode}-only"]]
        assert exclusive == sorted(exclusive, reverse=True)
    assert set(lists["think-on-only"]) == inside["on"] - inside["off"]
    assert set(lists["think-off-only"]) == inside["off"] - inside["on"]
    assert set(lists["both"]) == inside["on"] & inside["off"]
    assert [row["head"] for row in result["heads"]] == sum(lists.values(), [])

    monkeypatch.setattr("analysis.models.loading.load_model", None)  # no weight is loaded
    written = {path: path.stat().st_mtime_ns for path in out.glob("o*/heads/*/*")}
    act(parse(Options, arguments))
    again = capsys.readouterr().out
    assert "2 modes, 2 of them measured already" in again
    assert again[again.index(" heads") :] == first[first.index(" heads") :]
    assert {path: path.stat().st_mtime_ns for path in out.glob("o*/heads/*/*")} == written
    for change, message in (
        ("seed=2", "holds other pairs"),
        ("dtype=float64", "was measured with dtype float32, not float64"),
        ("tracking.fraction=0.1", "tracked with other settings; give tracking.fraction=auto"),
    ):
        with pytest.raises(ValueError, match=message):
            act(parse(Options, [*arguments, change]))
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="was measured with base .*tiny, not .*other"):
        act(parse(Options, [f"model={other}", *arguments[1:]]))


def test_a_broken_model_is_named(tiny_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_dir / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, tiny_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="there is no circuit in .*on: model.norm.weight is not"):
        act(parse(Options, [f"model={tiny_dir}", f"out={tmp_path}/o", *FAST]))


def build_two_ways():
    """The copier of tests/support with a second way that needs an empty think block.

    At `</think>` L0H3 looks for digits and writes which one into dimensions 44-53; L1H0 attends to
    `</think>` and copies that to the output. Elsewhere L0H3 looks at `<|im_start|>`, whose value is
    0. Feature 42 is `</think>`, feature 43 `<|im_start|>`.
    """
    model, tokenizer = build_copier(), build_tokenizer()
    close, start = tokenizer.convert_tokens_to_ids(["</think>", "<|im_start|>"])
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 42:54] = 0
        embedding[close, 42] = embedding[start, 43] = 1
        first, second = (model.model.layers[i].self_attn for i in (0, 1))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[42:54] = 0
        for attention, head in ((first, 3), (second, 0)):
            query, key = head * 16, head // 2 * 16
            for part, row in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
                getattr(attention, part).weight[row : row + 16] = 0
            attention.o_proj.weight[:, query : query + 16] = 0
        # dimensions 7 and 15 of a head are those that rotary embedding hardly turns
        first.q_proj.weight[48 + 7, 42] = 20
        first.q_proj.weight[48 + 15, 11], first.q_proj.weight[48 + 15, 42] = 20, -20
        first.k_proj.weight[16 + 7, 10] = first.k_proj.weight[16 + 15, 43] = 20
        second.q_proj.weight[7, 11] = second.k_proj.weight[7, 42] = 20
        for digit in range(10):
            first.v_proj.weight[16 + digit, digit] = 1
            first.o_proj.weight[44 + digit, 48 + digit] = 3
            second.v_proj.weight[digit, 44 + digit] = 1
            second.o_proj.weight[22 + digit, digit] = 3
    return model


def save_task(directory: Path, model, template: str = CHAT_TEMPLATE) -> list[str]:
    """Model, tokenizer and the problems of the copier; the arguments that name them."""
    model.save_pretrained(directory)
    with_template(template).save_pretrained(directory)
    lines = [json.dumps({"problem": p.question, "answer": p.answer}) for p in PROBLEMS]
    (directory / "task.jsonl").write_text("\n".join(lines))
    return [
        f"model={directory}",
        f"source=jsonl:{directory}/task.jsonl",
        "size=16",
        "tracking.resamples=200",
        "tracking.ig_steps=4",
        "tracking.metric=logit_diff",
    ]


ABOVE_NOISE = ["tracking.fraction=null", "tracking.top_n=60", "tracking.tau=0.2"]


def test_heads_that_only_the_think_block_brings_in_are_exclusive_and_called(
    tmp_path, capsys, monkeypatch
):
    given = save_task(tmp_path / "model", build_two_ways())
    out = tmp_path / "think"
    act(parse(Options, [*given, *ABOVE_NOISE, f"out={out}"]))
    printed = capsys.readouterr().out
    found = {
        name: json.loads((out / "heads" / f"{name}.json").read_text())
        for name in ("think-on-only", "think-off-only", "both")
    }
    assert Counter(found["think-off-only"]["heads"]) == Counter(["L0H3", "L1H0"])
    assert found["think-off-only"]["called"] == found["think-off-only"]["heads"]
    assert found["think-on-only"] == {"heads": [], "called": []}
    assert sorted(found["both"]["heads"]) == HEADS
    assert "think on only: none." in printed
    assert re.search(r"L1H0\* \(0\.00 → 1\.00\)", printed)

    graph = anatomy(build_copier()).graph
    commands = [
        shlex.split(line) for line in printed.splitlines() if line.startswith("headlab evaluate")
    ]
    assert len(commands) == 2
    for words, change in zip(commands, ("zero:", "scale:0.5:"), strict=True):
        assert words[:2] == ["headlab", "evaluate"]
        evaluation = evaluate.prepare(parse(evaluate.Options, words[2:]))
        assert evaluation.questions.prompting.think == "off"
        assert evaluation.change.text.startswith(change)
        heads = evaluation.change.text.removeprefix(change)
        assert sorted(parse_heads(heads, graph)) == [(0, 3), (1, 0)]
    monkeypatch.chdir(tmp_path)
    few = ["n=1", "size=4", "max_new_tokens=3", "controls=1", "out=result"]
    evaluate.act(parse(evaluate.Options, [*commands[0][2:], *few]))
    result = json.loads((tmp_path / "result" / "scores.json").read_text())
    assert result["think"] == "off"
    assert sorted(result["heads"]) == ["L0H3", "L1H0"]


def test_without_exclusive_heads_the_text_says_so(tmp_path, capsys):
    """The plain copier has one way for both modes."""
    given = save_task(tmp_path / "model", build_copier())
    act(parse(Options, [*given, *ABOVE_NOISE, f"out={tmp_path}/think"]))
    printed = capsys.readouterr().out
    heads = json.loads((tmp_path / "think" / "heads" / "think-off-only.json").read_text())
    assert heads == {"heads": [], "called": []}
    assert printed.endswith(
        "No head is in the think-off circuit alone, so there is none to ablate.\n"
    )
    assert "headlab evaluate" not in printed
    assert "Take care" not in printed


def test_the_same_prompts_in_both_modes_give_no_difference(tmp_path, capsys):
    """Nothing differs in any resample, so the modes draw the same resamples; by chance some do."""
    template = UNSWITCHED + "{# enable_thinking changes nothing #}"
    given = save_task(tmp_path / "model", build_copier(), template)
    act(parse(Options, [*given, "tracking.fraction=0.2", f"out={tmp_path}/think"]))
    result = json.loads((tmp_path / "think" / "think.json").read_text())
    assert result["same_prompts"]
    for name in ("think-on-only", "think-off-only"):
        assert result["counts"][name] == {"value": 0, "low": 0, "high": 0}
        assert result["called"][name] == 0
    assert result["modes"]["on"]["by_chance"]["mean"] > 0
    assert "gives the same prompts with think on and off" in capsys.readouterr().out


def test_known_scores_give_known_exclusive_heads():
    """Most of the heads that are exclusive in truth are called, in the right mode, and few others.

    Heads grow or shrink by a factor of 20 between the modes; the truth is the noiseless circuits.
    """
    right, wrong, there = Counter(), Counter(), Counter()
    for seed in range(8):
        world = World(seed, changed=6)
        on, off = (make_record(0, scores) for scores in world.scores(48))
        modes = compare_modes(on, off, 0.05)
        true_on, true_off = (heads.inside[0] for heads in world.truth())
        truth = {"think-on-only": true_on & ~true_off, "think-off-only": true_off & ~true_on}
        for name, mask in truth.items():
            called = modes.called(name)
            there[name] += int(mask.sum())
            right[name] += int((called & mask).sum())
            wrong[name] += int((called & ~mask).sum())
        assert not modes.called("both").any()
        everything = [head for name in (*truth, "both") for head in modes.ordered(name)]
        union = on.in_circuit | off.in_circuit
        assert sorted(everything) == union.nonzero().flatten().tolist()
    for name, number in there.items():
        assert right[name] > 0.5 * number > 5
        assert wrong[name] <= 0.05 * (right[name] + wrong[name])


def test_modes_measured_differently_are_not_compared():
    scores = World(0).scores(8)[0]
    record = make_record(0, scores)
    other = make_record(0, scores, settings={**record.settings, "metric": "logit_diff"})
    with pytest.raises(ValueError, match="the modes differ in settings"):
        compare_modes(record, other, 0.05)
    with pytest.raises(ValueError, match=r"the modes differ in n_pairs \(8 and 6\)"):
        compare_modes(record, make_record(0, scores[:6]), 0.05)
