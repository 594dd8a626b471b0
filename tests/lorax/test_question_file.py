from __future__ import annotations

from pathlib import Path

import pytest

from lorax.errors import Stop
from lorax.question_file import Question, read_questions


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "questions.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_each_line_is_a_prompt_as_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "What is it? \r\n\r\n  Who was it?\n")

    assert read_questions(file) == (Question("What is it? ", None, 1), Question("  Who was it?", None, 3))


def test_lines_of_json_may_give_answers_and_prompts_of_several_lines(tmp_path: Path) -> None:
    file = written(tmp_path, '{"prompt": "Q: a\\nA:"}\n\n{"prompt": "b", "answer": " yes, b "}\n')

    assert read_questions(file) == (Question("Q: a\nA:", None, 1), Question("b", " yes, b ", 3))


def test_a_mark_at_the_beginning_is_no_part_of_the_first_question(tmp_path: Path) -> None:
    assert read_questions(written(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}'))[0].prompt == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a"}\nWho?', r"questions\.txt, line 2: 'Who\?' is not JSON .*expected, as on the first line"),
        ('{"prompt": "a"}\n["b"]', r"line 2: '\[\"b\"\]' is no object; expected"),
        ('{"prompt": "a", "anwser": "b"}', r"line 1: there is 'anwser'; expected is nothing but"),
        ('\n{"answer": "b"}', r"line 2: the prompt is None; expected is a text"),
        ('{"prompt": ""}', "line 1: the prompt is ''; expected is a text that is not empty"),
        ('{"prompt": 3}', "line 1: the prompt is 3"),
        ('{"prompt": "a", "answer": 3}', "line 1: the answer is 3; expected is a text of one line"),
        ('{"prompt": "a", "answer": " "}', "line 1: the answer is ' '"),
        ('{"prompt": "a", "answer": "b\\nc"}', "line 1: the answer is .*expected is a text of one line"),
        (" \n\n", r"questions\.txt: holds no question; expected is one prompt a line"),
        (b"\xff\xfe", r"questions\.txt: cannot be read .*expected is a file of UTF-8"),
        ('{"prompt": "' + "x" * 500, "line 1: .{70,90}… is not JSON|line 1: .{0,80}…' is not JSON"),
    ],
)
def test_what_does_not_serve_is_named_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(Stop, match=said):
        read_questions(written(tmp_path, content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"nowhere\.txt: cannot be read"):
        read_questions(tmp_path / "nowhere.txt")
