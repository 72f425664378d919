"""Evaluations as a user runs them: answers, files, resuming, controls, tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from analysis.cli import parse
from analysis.commands.evaluate import act, prepare
from analysis.evaluation import asking
from analysis.evaluation.asking import evaluate, requests_of
from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import (
    GumbelNoise,
    Request,
    Sampling,
    batches,
    processors,
    sample,
    seed_of,
)
from analysis.evaluation.setup import Options
from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem
from analysis.records.run_file import RunFile
from tests.support.known_circuit import HEADS, PROBLEMS, save_copier
from tests.support.places import ROOT
from tests.support.warm import pid_of, warm_python
from train.recipes.tiny import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def copier(tmp_path_factory) -> Path:
    """The model whose circuit is known, with its problems beside it as task.jsonl."""
    directory = tmp_path_factory.mktemp("copier")
    save_copier(directory)
    rows = [json.dumps({"problem": p.question, "answer": p.answer}) for p in PROBLEMS]
    (directory / "task.jsonl").write_text("\n".join(rows) + "\n")
    return directory


def load(directory: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    return model, AutoTokenizer.from_pretrained(directory)


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
    from analysis.evaluation.sampling import end_of_turn, stop_tokens

    model, tokenizer = load(tiny_dir)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(tokenizer) == end
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert stop_tokens(model, tokenizer) == sorted({end, tokenizer.eos_token_id})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer) is None


def test_pass_at_1_by_hand(tokenizer, monkeypatch):
    from analysis.evaluation.sampling import Completion

    problems = [Problem("1+1=?", "2"), Problem("2+2=?", "4"), Problem("3+3=?", "6")]
    answers = ["2", "2", "4", "5", "<think>", "nothing"]
    drawn = [Completion(text, 1, text == "<think>") for text in answers]
    monkeypatch.setattr(asking, "sample", lambda *args: drawn)
    found = evaluate(None, tokenizer, problems, Prompting(), Sampling(samples=2))
    assert found.pass_at_1 == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.low <= found.pass_at_1 <= found.high
    assert (found.truncated, found.failures) == (1, {"no_answer": 2})


def test_what_the_prompt_begins_is_judged_too(monkeypatch):
    """A template that opens a think block: reasoning that was cut off holds no answer."""
    from analysis.evaluation.sampling import Completion

    opens = build_tokenizer()
    opens.chat_template = "{{ messages[0].content + '\\n<think>\\n' }}"
    problems = [Problem("1+1=?", "2")]
    drawn = [Completion("1+1 is 2", 5, True), Completion("hm</think>so 2", 5, False)]
    monkeypatch.setattr(asking, "sample", lambda *args: drawn)
    found = evaluate(None, opens, problems, Prompting(), Sampling(samples=2))
    assert found.failures == {"no_answer": 1}
    assert found.pass_at_1 == 0.5
    requests = requests_of(opens, problems, Prompting(prefix="<answer>"), 1)
    assert requests[0].prompt.endswith("<think>\n<answer>")
    assert requests[0].begun == "<think><answer>"


def words(copier: Path, out: Path, *more: str) -> list[str]:
    return [
        f"model={copier}",
        f"task=jsonl:{copier}/task.jsonl",
        "suffix=''",
        "max_new_tokens=4",
        "n=2",
        "temperature=0.3",
        f"out={out}",
        *more,
    ]


def run(copier: Path, out: Path, *more: str) -> dict:
    act(parse(Options, words(copier, out, *more)))
    return json.loads((out / "scores.json").read_text())


def test_the_known_circuit_end_to_end(copier, tmp_path, capsys):
    """Its heads destroy the task, random heads do not, and the intervals say so."""
    heads = ",".join(HEADS)
    result = run(copier, tmp_path / "e", f"intervention=zero:{heads}", f"base={copier}", "k=[1,2]")
    scores, found = result["conditions"], result["comparisons"]
    assert scores["none"]["pass_at_1"] > 0.95
    assert scores["intervention"]["pass_at_1"] < 0.1
    sets = [name for name in scores if name.startswith("random-")]
    assert len(sets) == 9  # of ten asked for: there are no more
    assert min(scores[name]["pass_at_1"] for name in sets) > 0.95
    assert found["effect"]["high"] < -0.8
    assert found["effect"]["p_value"] < 1e-6
    assert abs(found["control"]["value"]) < 0.05
    assert found["effect_minus_control"]["high"] < -0.7
    assert found["effect_minus_control"]["p_value"] == pytest.approx(1 / 10)
    # the base is the same model here, so nothing of the effect is left
    assert found["effect_minus_base"]["low"] <= 0 <= found["effect_minus_base"]["high"]
    assert scores["none"]["pass_at_k"]["2"]["value"] >= scores["none"]["pass_at_1"]
    assert result["heads"] == HEADS
    assert all(len(result["changed"][name]) == 2 for name in sets)
    shown = capsys.readouterr().out
    assert "effect - that of random heads" in shown


def test_a_result_without_random_heads_says_so(copier, tmp_path, capsys):
    run(copier, tmp_path / "e", "intervention=zero:L0H3", "controls=0", "size=4", "n=1")
    shown = capsys.readouterr().out
    assert "4 problems, 1 sample of each" in shown and "(1 head: L0H3)" in shown
    assert "No random heads were changed: controls=10" in shown and "gainst random" not in shown


def test_random_heads_of_the_circuits_layers_have_no_effect(copier, tmp_path, capsys):
    """The same command on two heads that do nothing: no effect beyond chance."""
    found = run(copier, tmp_path / "e", "intervention=zero:L0H3,L2H0", "controls=4")["comparisons"]
    assert found["effect"]["low"] <= 0 <= found["effect"]["high"]
    assert found["effect"]["p_value"] > 0.05
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 80


def test_attribution_finds_the_known_circuit(copier, tmp_path):
    """pairs -> EAP-IG -> circuit file -> zeroed heads, by commands alone."""
    from analysis.commands.pairs import Options as PairOptions
    from analysis.commands.pairs import act as make_pairs

    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "circuit"
    task = f"source=jsonl:{copier}/task.jsonl"
    make_pairs(parse(PairOptions, [f"model={copier}", f"out={pairs}", task, "size=6"]))
    done = subprocess.run(
        [
            warm_python(),
            "-m",
            "analysis",
            "attribute",
            f"model.path={copier}",
            f"pairs.path={pairs}",
            f"out={out}",
            "circuit.top_n=6",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = run(copier, tmp_path / "e", f"intervention=zero:{out}/graph.json:2", "controls=2")
    assert sorted(result["heads"]) == HEADS
    assert result["comparisons"]["effect"]["high"] < -0.8


def test_the_same_settings_go_on_and_others_are_refused(copier, tmp_path):
    first = run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "controls=1")
    lines = (tmp_path / "e" / "completions" / "none.jsonl").read_text()
    more = run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "controls=2", "k=[2]")
    assert (tmp_path / "e" / "completions" / "none.jsonl").read_text() == lines
    assert more["conditions"]["random-1"] != {}
    assert (
        first["conditions"]["random-1"]["pass_at_1"]
        == (more["conditions"]["random-1"]["pass_at_1"])
    )
    with pytest.raises(ValueError, match=r"other settings: temperature \(0.3 -> 0.9\)"):
        run(copier, tmp_path / "e", "intervention=scale:0.5:L0H1", "temperature=0.9")


def test_an_evaluation_does_not_go_on_with_other_heads_or_weights(copier, tmp_path):
    """A file that names other heads by now, other weights, another reference: refused, all kept."""
    heads = tmp_path / "heads.json"
    heads.write_text('{"heads": ["L0H1"]}')
    more = [f"intervention=zero:{heads}", "controls=1", "size=8"]
    run(copier, tmp_path / "e", *more)
    heads.write_text('{"heads": ["L1H0"]}')
    with pytest.raises(ValueError, match=r"intervention \(zero:L0H1 -> zero:L1H0\)"):
        run(copier, tmp_path / "e", *more)
    heads.write_text('{"heads": ["L0H1"]}')
    other = tmp_path / "other"
    shutil.copytree(copier, other)
    run(other, tmp_path / "w", "size=8")
    model, tokenizer = load(other)
    model.lm_head.weight.data[5] += 1
    model.save_pretrained(other)
    with pytest.raises(ValueError, match=r"other settings: weights \("):
        run(other, tmp_path / "w", "size=8")


def test_answers_of_unchanged_models_are_shared(copier, tmp_path, monkeypatch):
    """`none` and `base` are asked once, by the first evaluation; settings tell them apart."""
    from analysis.evaluation import conditions

    asked = []
    drawn = conditions.sample
    monkeypatch.setattr(
        conditions, "sample", lambda *given: asked.append(len(given[2])) or drawn(*given)
    )
    shared = [f"unchanged={tmp_path}/shared", "size=8", "n=1", "batch_size=8", "controls=1"]
    run(copier, tmp_path / "a", *shared, "intervention=zero:L0H1", f"base={copier}")
    assert len(asked) == 4  # none (which is the base as well), changed, random, changed base
    run(copier, tmp_path / "b", *shared, "intervention=zero:L1H1", f"base={copier}")
    assert len(asked) == 7
    result = run(copier, tmp_path / "c", *shared)
    assert len(asked) == 7
    assert result["conditions"]["none"]["problems"] == 8
    run(copier, tmp_path / "d", *shared, "temperature=0.9")
    assert len(asked) == 8


def test_a_score_measured_otherwise_is_not_replaced(copier, tmp_path, capsys):
    from analysis.records.evaluations import read_evaluations

    run_dir = tmp_path / "my-run"
    RunFile("my-run", "sft", "loss").write(run_dir)
    (run_dir / "checkpoint-7").symlink_to(copier)
    for size, out in ((20, "a"), (3, "b")):
        words_of = [
            f"model={run_dir}@7",
            f"task=jsonl:{copier}/task.jsonl",
            "suffix=''",
            "n=1",
            "max_new_tokens=4",
            f"size={size}",
            f"out={tmp_path}/{out}",
        ]
        act(parse(Options, words_of))
    assert read_evaluations(run_dir, "task")[7]["problems"] == 20
    assert "keeps its score of step 7, which was measured with other" in capsys.readouterr().out


def test_answers_beyond_the_context(copier, tmp_path, caplog):
    """Learned positions end; others go on, which is said."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=64,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    more = ["size=2", "n=1", "max_new_tokens=100"]
    with pytest.raises(ValueError, match="positions for 64 tokens; give max_new_tokens="):
        run(tmp_path / "gpt2", tmp_path / "e", f"task=jsonl:{copier}/task.jsonl", *more)
    run(copier, tmp_path / "f", "size=2", "n=1", "max_new_tokens=300")
    assert "go beyond the 256 tokens that the model was trained on" in caplog.text


def test_a_store_that_was_cut_goes_on_alike(tiny_dir, tmp_path):
    """Answers missing in the middle of a batch, and a line cut by a crash: the same file."""
    model, tokenizer = load(tiny_dir)
    problems = [Problem(f"{n}+{n}=?", str(2 * n)) for n in range(10, 17)]
    sampling = Sampling(3, 1.0, 0.95, 6, 4)
    whole, cut = Completions(tmp_path / "whole.jsonl"), tmp_path / "cut.jsonl"
    score = evaluate(model, tokenizer, problems, Prompting(), sampling, 0, whole)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 21
    cut.write_text("".join(lines[:9]) + lines[9][:25])
    again = evaluate(model, tokenizer, problems, Prompting(), sampling, 0, Completions(cut))
    assert again == score

    def answers(path: Path) -> list[dict]:
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return sorted(rows, key=lambda row: (row["problem"], row["sample"]))

    assert answers(cut) == answers(tmp_path / "whole.jsonl")
    assert len(list(batches(range(21), 4))) == 6


def test_a_killed_evaluation_goes_on_to_the_same_result(copier, tmp_path):
    """kill -9 of the command in the middle of it; the same command again, and one never killed."""
    more = ["intervention=zero:L0H1", "controls=2", "batch_size=4", "temperature=1.0"]

    def command(out: Path) -> list[str]:
        return [warm_python(), "-m", "analysis", "evaluate", *words(copier, out, *more)]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(command(killed), cwd=ROOT, stderr=subprocess.DEVNULL)
    there = killed / "completions" / "intervention.jsonl"
    deadline = time.monotonic() + 120
    while not (there.exists() and there.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid_of(process), signal.SIGKILL)
    process.wait()
    assert not (killed / "scores.json").exists()
    for out in (killed, whole):
        done = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = [json.loads((out / "scores.json").read_text()) for out in (killed, whole)]
    assert found[0] == found[1]
    assert "tokens/s" in done.stderr  # throughput, and tqdm's remaining time beside it


def test_a_mean_and_a_resampled_value(copier, tmp_path):
    """Known heads at their mean or at another token's value: the digit is lost either way."""
    for operation in ("mean", "mean_by_position", "resample"):
        change = f"intervention={operation}:{','.join(HEADS)}"
        result = run(copier, tmp_path / operation, change, "controls=2")
        assert result["comparisons"]["effect_minus_control"]["high"] < -0.5, operation


def test_a_checkpoint_of_a_run(copier, tmp_path, compose):
    """Scores land in the run, and its report and table show them."""
    from analysis.files import write_json
    from analysis.records.evaluations import evaluated_tasks, read_evaluations
    from analysis.reporting.report import write_report
    from analysis.reporting.tables import format_table
    from analysis.trajectories.run import Run

    run_dir = tmp_path / "my-run"
    RunFile("my-run", "sft", "loss").write(run_dir)
    write_json(run_dir / "base.json", {"path": str(copier), "dtype": "float32"})
    (run_dir / "checkpoint-7").symlink_to(copier)
    for place, change in (("0", "none"), ("last", f"zero:{','.join(HEADS)}")):
        arguments = [
            f"model={run_dir}@{place}",
            f"task=jsonl:{copier}/task.jsonl",
            "suffix=''",
            "n=1",
            "max_new_tokens=4",
            f"intervention={change}",
            "controls=2",
            "size=20",
        ]
        act(parse(Options, arguments))
    assert evaluated_tasks(run_dir) == ["task"]
    assert sorted(read_evaluations(run_dir, "task")) == [0, 7]
    out = run_dir / "evaluations" / "task" / "step-000007" / "zero-L0H1-L2H2"
    assert "base+intervention" in json.loads((out / "scores.json").read_text())["conditions"]
    assert "zero:L0H1,L2H2" in (run_dir / "report.html").read_text()
    table = format_table(Run.read(run_dir))
    assert re.search(r"checkpoint +task\n +0 +100.0 .*\n +7 +100.0", table)
    page = write_report([Run.read(run_dir)], tmp_path / "report.html").read_text()
    assert "Heads changed" in page
    assert "zero:L0H1,L2H2" in page
    assert "Benchmarks, pass@1 %" in page


MISTAKES = [
    (["task=aime"], "unknown task 'aime'; choose one of aime24, aime25"),
    (["task=jsonl:none.jsonl"], "jsonl:none.jsonl can't be read: No such file"),
    (["model=/no/such/place"], "there is no directory /no/such/place"),
    (["k=[5]"], "k=5 needs as many samples of each problem at least; n is 4"),
    (["think=maybe"], "think is 'maybe'; choose on or off, or leave it out"),
    (["backend=sglang"], "backend is 'sglang'; choose one of: hf, vllm"),
    (["backend=vllm"], "backend=vllm needs the package vllm"),
    (["dtype=int8"], "dtype is 'int8'"),
    (["temperature=-1"], "temperature must be 0 (greedy) or more"),
    (["top_p=0"], "top_p must lie in (0, 1]"),
    (["size=0"], "size must be at least 1"),
    (["size=41"], "has 40 problems, fewer than size=41"),
    (["controls=-1"], "controls must be 0 or more"),
    (["reference=none.jsonl"], "there is no pairs file none.jsonl"),
    (["k=four"], "k is 'four'; write a number or a list"),
    (["base=x"], "base=x is for an intervention, and there is none"),
    (["intervention=zap:L0H1"], "write none, zero:HEADS"),
    (["backend=vllm", "dtype=float64"], "vLLM has no dtype=float64"),
    (["options=3"], "write 'options={terms: 3}'"),
    (["task=arithmetic", "options={term: 3}"], "arithmetic has no option"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_mistakes_are_named_before_any_weight_is_loaded(copier, given, message):
    defaults = [f"model={copier}", f"task=jsonl:{copier}/task.jsonl"]
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(parse(Options, [*defaults, *given]))


def test_a_directory_without_a_model_is_named(tmp_path, copier):
    with pytest.raises(ValueError, match="holds no model .* for a run, write .*@STEP"):
        prepare(parse(Options, [f"model={tmp_path}", f"task=jsonl:{copier}/task.jsonl"]))


def test_vllm_gets_baked_checkpoints_and_seeds(copier, tmp_path, monkeypatch):
    """With a stand-in for the package: what it is given, and that its answers are judged."""
    import types

    import peft

    from analysis.evaluation import conditions, vllm_engine

    loaded, asked_for, loaded_tokenizer = [], [], build_tokenizer()

    class LLM:
        def __init__(self, model, **options):
            assert options["dtype"] == "float32"  # that of the files, and not vLLM's own choice
            loaded.append(model)
            self._model, self._tokenizer = load(Path(model))

        def get_tokenizer(self):
            return self._tokenizer

        def generate(self, prompts, how, use_tqdm):
            asked_for.extend(how)
            outputs = []
            for prompt in prompts:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                out = self._model.generate(ids, max_new_tokens=4, do_sample=False)[0]
                out = out[ids.shape[1] :]
                text = self._tokenizer.decode(out, skip_special_tokens=True)
                one = types.SimpleNamespace(text=text, token_ids=out, finish_reason="stop")
                outputs.append(types.SimpleNamespace(outputs=[one]))
            return outputs

    def parameters(**options):
        return types.SimpleNamespace(**options)

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, parameters
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda dtype: None)
    assert conditions.engine is vllm_engine.engine
    change = f"intervention=zero:{','.join(HEADS)}"
    result = run(copier, tmp_path / "e", "backend=vllm", change, "controls=1", "size=10")
    assert loaded[0] == str(copier)
    assert len(loaded) == 3
    assert len(set(loaded)) == 3
    assert len({how.seed for how in asked_for[:20]}) == 20
    assert (asked_for[0].temperature, asked_for[0].max_tokens) == (0.3, 4)
    assert result["conditions"]["none"]["pass_at_1"] == 1
    assert result["conditions"]["intervention"]["pass_at_1"] == 0
    assert asked_for[0].stop_token_ids == [loaded_tokenizer.eos_token_id]
    adapter = tmp_path / "adapter"
    peft.get_peft_model(load(copier)[0], peft.LoraConfig(r=2)).save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(copier)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    result = run(
        adapter, tmp_path / "a", f"task=jsonl:{copier}/task.jsonl", "backend=vllm", "size=5"
    )
    assert result["conditions"]["none"]["pass_at_1"] == 1  # merged, as vLLM takes whole models
    assert loaded[-1] != str(adapter)
    with pytest.raises(ValueError, match="can't be baked into weights, as vLLM needs"):
        run(copier, tmp_path / "r", "backend=vllm", "intervention=resample:L0H1")
    with pytest.raises(ValueError, match="vLLM's Qwen3 leaves out the bias"):
        vllm_engine.check_bakes("mean", "qwen3")
