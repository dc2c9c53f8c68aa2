"""A few rows of tasks, in the columns of the public data sets, and folders with them."""

import json
from pathlib import Path

ROWS = {
    "arc_easy": [
        {
            "id": str(i),
            "question": f"Which of these is number {i}?",
            "choices": {"text": [f"{n} crabs" for n in range(i, i + 4)], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(6)
    ],
    "arc_challenge": [
        {
            "id": str(i),
            "question": f"Which of these is not number {i}?",
            "choices": {"text": [f"{n} slabs" for n in range(i, i + 4)], "label": list("ABCD")},
            "answerKey": "ABCD"[(i + 1) % 4],
        }
        for i in range(6)
    ],
    "openbookqa": [
        {
            "id": str(i),
            "question_stem": f"The number {i} is",
            "choices": {"text": [f"crab {n}" for n in range(i, i + 4)], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(6)
    ],
    "piqa": [
        {"goal": f"Grab {i} crabs", "sol1": "with a net.", "sol2": "with a slab.", "label": i % 2}
        for i in range(6)
    ],
    "social_iqa": [
        {
            "context": f"Tracy grabbed {i} crabs.",
            "question": "What will Tracy do?",
            "answerA": "eat them",
            "answerB": "free them",
            "answerC": "sell them",
            "label": str(1 + i % 3),
        }
        for i in range(6)
    ],
    "boolq": [
        {"passage": "A crab. " * 12, "question": f"is {i} a crab", "label": i % 2} for i in range(6)
    ],
    "winogrande": [
        {
            "sentence": f"The crab grabbed the slab because _ was {i}.",
            "option1": "the crab",
            "option2": "the slab",
            "answer": str(1 + i % 2),
        }
        for i in range(6)
    ],
    "hellaswag": [
        {
            "ind": i,
            "activity_label": "Cooking",
            "ctx_a": "A man cooks.",
            "ctx_b": "he",
            "ctx": "A man cooks. he",
            "endings": [f"cuts {n} slabs." for n in range(i, i + 4)],
            "label": str(i % 4),
        }
        for i in range(6)
    ],
    "lambada_openai": [{"text": f"The {i} crabs are on the slab"} for i in range(6)],
    "blimp_passive_1": [
        {"sentence_good": f"{i} crabs are grabbed.", "sentence_bad": f"{i} crabs is grabbed."}
        for i in range(6)
    ],
    "race": [
        {
            "article": f"A man grabs {i} crabs. He eats them.",
            "problems": repr(
                [
                    {
                        "question": "What does he grab?",
                        "answer": "A",
                        "options": ["Crabs.", "Slabs.", "Cabs.", "Labs."],
                    },
                    {
                        "question": "How many are _ ?",
                        "answer": "ABCD"[i % 4],
                        "options": [f"There are {n}." for n in range(i, i + 4)],
                    },
                ]
            ),
        }
        for i in range(6)
    ],
    "triviaqa": [
        {"question": f"Who is {i}", "answer": {"aliases": ["a crab", f"{i}"]}} for i in range(6)
    ],
}
SPLIT = {
    "arc_easy": "test", "arc_challenge": "test", "openbookqa": "test", "lambada_openai": "test",
    "blimp_passive_1": "train", "race": "test",
}  # fmt: skip
"""The split on which a task is evaluated; validation for the others."""


def write_rows(folder: Path, *tasks: str, splits: tuple[str, ...] = ()) -> Path:
    for task in tasks or ROWS:
        place = folder / task
        place.mkdir(parents=True, exist_ok=True)
        for split in (SPLIT.get(task, "validation"), *splits):
            lines = "".join(json.dumps(row) + "\n" for row in ROWS[task])
            (place / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder
