"""A training asks and is answered as it is evaluated: rows, rewards, rollouts, pairs."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from analysis.files import write_json
from analysis.prompts.chat import Prompting
from analysis.prompts.turns import NO_THINK
from analysis.records.run_file import RunFile
from tests.support.runs import small
from tests.support.templates import TEMPLATES, tokenizer_with
from train.asking import asks, check_same_prompting, prompting_of, run_tokenizer
from train.rewards import REWARDS
from train.rollouts import ask_alike, closing_template, end_alike

WORKED = "<think>7+5=12</think><answer>12</answer>"
ASKED = [{"role": "user", "content": "7+5=?"}]


def sft_rows(answers: list[str], messages: bool = False):
    from datasets import Dataset

    given = [{"role": "assistant", "content": text} for text in answers]
    if messages:
        return Dataset.from_list([{"messages": [*ASKED, answer]} for answer in given])
    return Dataset.from_list([{"prompt": ASKED, "completion": [answer]} for answer in given])


def fitted(template: str, rows, ask: Prompting | None = None, kind: str = "sft"):
    from trl import GRPOConfig, SFTConfig

    from train.rows import fit_rows

    config = object.__new__(SFTConfig if kind == "sft" else GRPOConfig)
    config.assistant_only_loss = False
    return fit_rows(rows, tokenizer_with(template), ask or Prompting(), config)


@pytest.mark.parametrize("template", ["chatml", "respaces", "dated", "no_system"])
def test_rows_that_stay_as_they_are(template):
    for rows in (sft_rows([WORKED, "<answer>12</answer>"]), sft_rows([WORKED], messages=True)):
        assert fitted(template, rows) is rows


@pytest.mark.parametrize("messages", [False, True])
def test_an_answer_goes_on_from_the_think_that_the_template_opens(messages):
    answers = [WORKED, "<think>\nHm</think>12", "<answer>12</answer>"]
    rows = fitted("opens_think", sft_rows(answers, messages))
    column = "messages" if messages else "completion"
    texts = [row[column][-1]["content"] for row in rows]
    assert texts == [
        "<think>\n7+5=12</think><answer>12</answer>",
        "<think>\nHm</think>12",
        NO_THINK + "<answer>12</answer>",
    ]


@pytest.mark.parametrize(
    ("template", "answer", "message"),
    [
        ("drops_thinking", WORKED, "row 1 .* leaves out .* what the assistant says, '<think>7"),
        ("opens_think", "It is 12", "asks for an answer with .*<think>.*not go on from"),
        ("no_end", WORKED, "no token after an answer that ends it, .*chat_template_path"),
        ("open_end", WORKED, "no token after an answer that ends it"),
        ("broken", WORKED, "can't write a conversation"),
    ],
)
def test_a_template_that_would_train_something_else_is_refused(template, answer, message):
    with pytest.raises(ValueError, match=message) as caught:
        fitted(template, sft_rows([answer]))
    assert "\n" not in str(caught.value)


def test_conversations_get_the_runs_prompt():
    ask = Prompting("Be brief.", " Answer.")
    row = fitted("chatml", sft_rows([WORKED], messages=True), ask)[0]["messages"]
    assert [m["content"] for m in row] == ["Be brief.", "7+5=? Answer.", WORKED]
    with pytest.raises(ValueError, match="row 1 .*System role not supported"):
        fitted("no_system", sft_rows([WORKED], messages=True), ask)


def test_rollouts_say_what_their_prompt_holds():
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": ASKED, "answer": "12"}])
    for template, ask, opened in (
        ("chatml", Prompting(), ""),
        ("opens_think", Prompting(), "<think>\n"),
        ("chatml", Prompting(think="off"), NO_THINK),
    ):
        turn = fitted(template, rows, ask, "grpo")["turn"]
        assert list(turn) == [{"opened": opened, "end": ""}]


def test_rewards_count_what_the_prompt_holds():
    opens, closed = {"opened": "<think>\n", "end": ""}, {"opened": NO_THINK, "end": "<end>"}
    rest = "7+5=12</think><answer>12</answer>"
    completions = [rest, "7+5=12, so 12", WORKED, "<answer>12</answer><end>"]
    turn = [opens, opens, opens, closed]
    assert REWARDS["format"](completions, turn=turn) == [1.0, 0.0, 0.0, 1.0]
    assert REWARDS["tag_count"](completions, turn=turn) == [1.0, 0.25, 0.75, 1.0]
    accuracy = REWARDS["accuracy"](completions, answer=["12"] * 4, turn=turn)
    assert accuracy == [1.0, 0.0, 1.0, 1.0]  # the second is cut off while it thinks


@pytest.mark.parametrize(("own", "told"), [([0], None), ([], 3), ([0, 7], [3]), ([256, 258], None)])
def test_rollouts_end_where_answers_end(own, told):
    """TRL's trainer knows the tokenizer's end and those of the generation config."""
    tokenizer = tokenizer_with("chatml")
    before = [tokenizer.eos_token_id, *own]
    given = {} if told is None else {"eos_token_id": told}
    trainer = SimpleNamespace(
        model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=own)),
        args=SimpleNamespace(generation_kwargs=given),
        eos_token_ids=before,
        use_vllm=False,
        generation_kwargs={"eos_token_id": before, **given},
        generation_config=SimpleNamespace(eos_token_id=before),
        chat_template=None,
    )
    end_alike(trainer, tokenizer, Prompting())
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    more = [told] if isinstance(told, int) else told or []
    wanted = {tokenizer.eos_token_id, turn, *own, *more}
    for found in (
        trainer.eos_token_ids,
        trainer.generation_kwargs["eos_token_id"],
        trainer.generation_config.eos_token_id,
    ):
        assert set(found) == wanted
    assert trainer.chat_template is None


@pytest.mark.parametrize("template", ["chatml", "opens_think", "no_end"])
def test_rollouts_that_do_not_think_are_asked_as_in_evaluation(template):
    tokenizer, ask = tokenizer_with(template), Prompting("Be brief.", think="off")
    closed = closing_template(tokenizer, ask)
    theirs = tokenizer.apply_chat_template(
        ask.messages("7+5=?"), tokenize=False, add_generation_prompt=True, chat_template=closed
    )
    assert theirs == ask.text(tokenizer, "7+5=?")
    assert closing_template(tokenizer, Prompting()) is None


def test_a_switch_and_the_ends_reach_the_rollouts():
    tokenizer = tokenizer_with("chatml")
    tokenizer.chat_template += "{%- if enable_thinking is defined %}off{%- endif %}"
    args = SimpleNamespace(use_vllm=True, generation_kwargs={"stop_token_ids": [9], "n": 1})
    ask_alike(args, tokenizer, Prompting(template_options={"a": 1}, think="off"))
    assert args.chat_template_kwargs == {"a": 1, "enable_thinking": False}
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ends = sorted([9, tokenizer.eos_token_id, turn])
    assert args.generation_kwargs == {"stop_token_ids": ends, "n": 1}
    assert closing_template(tokenizer, Prompting(think="off")) is None


def test_what_is_asked_is_one_thing(compose, tmp_path):
    """Rollouts and their pairs think as the evaluation does; the answers of SFT are given."""
    from train.build import evaluations

    settings = ["data.system_prompt=Be brief.", "evaluation.think=off", f"run_dir={tmp_path}"]
    settings += [f"evaluation.tasks=[jsonl:{tmp_path}/t.jsonl]"]
    (tmp_path / "t.jsonl").write_text('{"problem": "1+1=?", "answer": "2"}\n')
    more = "train.args.chat_template_kwargs={a: 1}"
    grpo = asks(compose("grpo", *settings, f"+{more}"))
    assert grpo == Prompting("Be brief.", think="off", template_options={"a": 1})
    cfg = compose("sft", *settings, "data.suffix=' Answer.'")
    assert asks(cfg) == Prompting("Be brief.", " Answer.")
    held_out, task = evaluations(cfg)
    # a file is asked with the run's own suffix, not the paper's
    assert held_out.prompting == task.prompting == Prompting("Be brief.", " Answer.", think="off")


def test_the_tokenizer_has_the_template_and_the_end_of_the_arguments(tmp_path, tiny_dir):
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATES["opens_think"])

    def made(**given):
        args = SimpleNamespace(**given)
        return run_tokenizer(str(tiny_dir), args), args

    tokenizer, args = made(chat_template_path=str(file), eos_token="<|endoftext|>")
    assert tokenizer.chat_template == TEMPLATES["opens_think"]
    assert (tokenizer.eos_token, args.chat_template_path) == ("<|endoftext|>", None)
    other = tmp_path / "other"
    source = tokenizer_with("chatml")
    source.save_pretrained(other)
    tokenizer, _ = made(chat_template_path=str(other))
    assert tokenizer.chat_template == source.chat_template
    assert tokenizer.eos_token == "<|endoftext|>"
    source.add_tokens(["<new>"])
    source.save_pretrained(other)
    for given, message in (
        ({"chat_template_path": str(other)}, r"which has tokens that .* has not \(<new>"),
        ({"chat_template_path": "none.jinja"}, "names none.jinja, which is no file"),
        ({"eos_token": "<nothing>"}, "eos_token is '<nothing>', which is no token of"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**given)


def test_a_run_that_goes_on_asks_as_it_began(compose, tmp_path):
    cfg = compose("sft", f"run_dir={tmp_path}")
    tokenizer = tokenizer_with("dated")
    now = prompting_of(cfg, tokenizer)
    check_same_prompting(tmp_path, now)  # there is none yet
    for before in (None, now):
        RunFile("r", "sft", prompting=before).write(tmp_path)
        check_same_prompting(tmp_path, now)
    RunFile("r", "sft", prompting={**now, "day": "2026-01-02"}).write(tmp_path)
    assert asks(cfg).day == "2026-01-02"
    with pytest.raises(ValueError, match="another chat template"):
        check_same_prompting(tmp_path, prompting_of(cfg, tokenizer_with("chatml")))
    with pytest.raises(ValueError, match="chat_template_kwargs={}, not {'a': 1}; restore it"):
        check_same_prompting(tmp_path, {**now, "template_options": {"a": 1}})


def test_the_saved_pairs_count(compose, tmp_path):
    from analysis.tracking.tracker import freeze_pairs
    from train.build import run_pairs

    cfg = compose("sft", f"run_dir={tmp_path}", "pairs.size=2")
    tokenizer = tokenizer_with("chatml")
    pairs = freeze_pairs(tmp_path, run_pairs(cfg, tokenizer))
    (tmp_path / "config.yaml").write_text("{}")
    other = tokenizer_with("no_end")  # whatever has changed
    assert run_pairs(cfg, other).hash == pairs.hash
    about = json.loads((tmp_path / "pairs.json").read_text())
    write_json(tmp_path / "pairs.json", {**about, "hash": "0"})
    with pytest.raises(ValueError, match="was changed since the run was started"):
        run_pairs(cfg, other)


def test_prompting_is_written_whole(compose, tmp_path):
    cfg = compose("sft", f"run_dir={tmp_path}", "evaluation.tasks=[math500]", "evaluation.think=on")
    told = prompting_of(cfg, tokenizer_with("chatml"))
    assert told.pop("suffixes")["math500"].endswith("\\boxed{}.")
    assert len(told.pop("template")) == 16
    assert Prompting(**told) == Prompting(think="on")
    assert {field.name for field in dataclasses.fields(Prompting)} == set(told)


def test_the_trainer_itself_ends_rollouts_so(compose, tmp_path, tiny_dir):
    """The places that TRL looks at, in its own trainer; and step 0 has the run's tokenizer."""
    from analysis.records.checkpoints import find_model
    from train.plan import assemble, prepare
    from train.trainer import build_trainer

    tokenizer_with("opens_think").save_pretrained(tiny_dir)
    own = {"eos_token_id": 256}
    write_json(tiny_dir / "generation_config.json", own)
    config = json.loads((tiny_dir / "config.json").read_text())
    write_json(tiny_dir / "config.json", {**config, **own})
    run = tmp_path / "r"
    more = ["tracking=none", "evaluation=none"]
    plan = prepare(compose("grpo", *small("grpo", tiny_dir, run, *more)))
    setup = assemble(plan)
    trainer = build_trainer(plan, setup)
    ends = [256, 258]
    assert sorted(trainer.eos_token_ids) == ends
    assert sorted(trainer.generation_config.eos_token_id) == ends
    assert setup.dataset[0]["turn"] == {"opened": "<think>\n", "end": ""}

    write_json(run / "base.json", {"path": str(tiny_dir), "dtype": "float32"})
    assert find_model(f"{run}@0").load_tokenizer().chat_template == TEMPLATES["opens_think"]
    tokenizer_with("chatml").save_pretrained(run / "tokenizer")
    assert find_model(f"{run}@0").load_tokenizer().chat_template == TEMPLATES["chatml"]
