"""Pairs made of the rows of a training, in the forms that trainers leave them in."""

from __future__ import annotations

import pytest

from analysis.live.auto_pairs import LEAST, auto_pairs, rows_of
from train.recipes.tiny import build_tokenizer

SUMS = [(a, b) for a in range(1, 9) for b in range(1, 9)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def texts(tokenizer, pairs):
    return [
        (tokenizer.decode(pair.clean_ids), tokenizer.decode(pair.corrupted_ids)) for pair in pairs
    ]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def sft_rows(tokenizer, labelled=True):
    """As SFTTrainer leaves rows of prompt and completion."""
    made = []
    for a, b in SUMS:
        prompt, answer = ids(tokenizer, f"{a}+{b}="), ids(tokenizer, f"<answer>{a + b}</answer>")
        labels = [-100] * len(prompt) + answer if labelled else prompt + answer
        made.append({"input_ids": prompt + answer, "labels": labels})
    return made


def test_completions_are_held_against_each_other_where_they_differ(tokenizer):
    pairs = auto_pairs(sft_rows(tokenizer), tokenizer)
    assert len(pairs) >= LEAST
    for (clean, corrupted), pair in zip(texts(tokenizer, pairs), pairs, strict=True):
        assert clean.endswith("=<answer>") or clean.endswith("=<answer>1")
        right = str(sum(map(int, clean.split("=")[0].split("+"))))
        wrong = str(sum(map(int, corrupted.split("=")[0].split("+"))))
        place = len(clean.split("<answer>")[1])
        assert tokenizer.decode([pair.target_id]) == f"{right}<"[place]
        assert tokenizer.decode([pair.foil_id]) == f"{wrong}<"[place]
        assert pair.target_id != pair.foil_id
    used = [text for both in texts(tokenizer, pairs) for text in both]
    assert len(set(used)) == len(used)  # a row is in one pair only


def test_the_same_rows_give_the_same_pairs_in_any_order(tokenizer):
    rows = sft_rows(tokenizer)
    assert auto_pairs(rows, tokenizer).hash == auto_pairs(rows[::-1], tokenizer).hash


@pytest.mark.parametrize("form", ["DPO", "Reward", "ORPO"])
def test_preferences_are_starts_of_two_answers(tokenizer, form):
    made = []
    for a, b in SUMS:
        prompt, chosen, rejected = (
            ids(tokenizer, text) for text in (f"{a}+{b}=", f"it is {a + b}", f"it is {a * b + 9}")
        )
        made.append(
            {
                "DPO": {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected},
                "Reward": {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected},
                "ORPO": {
                    "chosen_input_ids": prompt + chosen,
                    "rejected_input_ids": prompt + rejected,
                },
            }[form]
        )
    pairs = auto_pairs(made, tokenizer)
    assert len(pairs) == 32
    for clean, corrupted in texts(tokenizer, pairs):
        assert clean.split("=")[0] == corrupted.split("=")[0]
        assert len(clean) == len(corrupted)
        assert clean != corrupted
    assert pairs.about == "chosen against rejected answers' starts"


def test_of_judged_completions_the_right_ones_count(tokenizer):
    rows = [
        {
            "prompt_ids": ids(tokenizer, f"{a}+{b}="),
            "completion_ids": ids(tokenizer, f"{a + b if right else 'no'}"),
            "label": right,
        }
        for a, b in SUMS
        for right in (True, False)
    ]
    targets = {tokenizer.decode([pair.target_id]) for pair in auto_pairs(rows, tokenizer)}
    assert "n" not in targets


@pytest.mark.parametrize("talk", [True, False])
@pytest.mark.parametrize(
    "answer",
    [{"answer": 0}, {"solution": "0"}, {"reward_model": {"ground_truth": "0"}}],
    ids=["answer", "solution", "verl"],
)
def test_prompts_with_answers_are_answered_at_once(tokenizer, talk, answer):
    [(name, value)] = answer.items()

    def put(number):
        if isinstance(value, dict):
            return {"ground_truth": str(number)}
        return number if isinstance(value, int) else str(number)

    rows = [
        {
            "prompt": [{"role": "user", "content": f"{a}+{b}?"}] if talk else f"{a}+{b}=",
            name: put(a + b),
        }
        for a, b in SUMS
    ]
    pairs = auto_pairs(rows, tokenizer)
    assert pairs.about == f"two prompts with another {name}, answered at once"
    opened = "<|im_start|>assistant\n" if talk else "="
    assert all(opened in clean for clean, _ in texts(tokenizer, pairs))
    assert all(pair.target_id is not None for pair in pairs)


def test_bare_prompts_have_two_styles_of_answer(tokenizer):
    rows = [{"prompt": [{"role": "user", "content": f"{a}+{b}?"}]} for a, b in SUMS]
    pairs = auto_pairs(rows, tokenizer)
    clean, corrupted = texts(tokenizer, pairs)[0]
    assert "assistant\n<think>Okay" in clean
    assert "assistant\nTo determine" in corrupted
    assert pairs.n_distinct == len(pairs) == 32


def test_a_conversation_without_labels_is_cut_before_its_last_answer(tokenizer):
    rows = []
    for a, b in SUMS:
        talk = [
            {"role": "user", "content": f"{a}+{b}?"},
            {"role": "assistant", "content": str(a + b)},
        ]
        whole = tokenizer.apply_chat_template(talk, return_dict=False)
        rows.append({"messages": talk, "input_ids": whole, "labels": whole})
    clean, _ = texts(tokenizer, auto_pairs(rows, tokenizer))[0]
    assert "<|im_start|>assistant\n" in clean


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "there are no rows to make pairs of"),
        ([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 9, "trainer=trainer, or a file"),
        ([{"image": "x"}], "no pairs can be made of rows of image"),
        ([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 40, "gave only 0 pairs"),
        ([{"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [2]}] * 9, "only 0 pairs"),
    ],
)
def test_what_gives_no_pairs_is_one_line(tokenizer, rows, match):
    with pytest.raises(ValueError, match=match) as error:
        auto_pairs(rows, tokenizer)
    assert "\n" not in str(error.value)


def test_rows_that_are_not_trained_on_come_first():
    class Both:
        train_dataset, eval_dataset = [1], {"a": [2], "b": [3]}

    class Training:
        train_dataset, eval_dataset = [1], None

    assert rows_of(Both, None) == ([2], "of the evaluation data, which are not trained on")
    assert rows_of(Training, None) == ([1], "of the training data, which are trained on too")
    assert rows_of(None, type("L", (), {"dataset": [4]}))[0] == [4]


@pytest.mark.parametrize("form", ["DPO", "ORPO", "SFT"])
def test_a_prompt_with_several_answers_is_in_one_pair(tokenizer, form):
    made = []
    for a, b in SUMS:
        for wrong in ("9", "no", "none"):
            prompt = ids(tokenizer, f"{a}+{b}=")
            chosen, rejected = ids(tokenizer, f"it is {a + b}"), ids(tokenizer, f"it is {wrong}")
            forms = {
                "DPO": {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected},
                "ORPO": {
                    "chosen_input_ids": prompt + chosen,
                    "rejected_input_ids": prompt + rejected,
                },
                "SFT": {"input_ids": prompt + chosen, "labels": [-100] * len(prompt) + chosen},
            }
            made.append(forms[form])
    pairs = auto_pairs(made, tokenizer)
    prompts = [text.split("=")[0] for both in texts(tokenizer, pairs) for text in set(both)]
    sides = 2 if form == "SFT" else 1
    assert len({*prompts}) * (3 - sides) == len(prompts)
    assert pairs.n_distinct == len(pairs)
