"""Judges of arithmetic that is worked out line by line: "12 + 7 - 3 + 8" is "12 + 7 = 19", "19 - 3 = 16", "16 + 8 = 24"."""

import re

from ventaja.environments import completion_text

LINE = re.compile(r"(-?\d+) ([+-]) (\d+) = (-?\d+)")


def lines(steps, question):
    """Of 1 an equal share for each line that takes the next number to what the line before came to, and reckons right.

    A line is judged by what stands before it, so one slip costs one line. What comes after the last number is wrong.
    """
    return [
        [is_right / len(_terms(problem)[1:]) for is_right in _judged(answer, problem)]
        for answer, problem in zip(steps, question, strict=True)
    ]


lines.full_marks = 1 - 1e-9  # three thirds may come to less than 1


def right(completions, question):
    """1 if the last line comes to the problem's result, however it was found."""
    scores = []
    for completion, problem in zip(completions, question, strict=True):
        said = LINE.fullmatch(completion_text(completion).strip().rpartition("\n")[2].strip())
        scores.append(
            float(said is not None and int(said[4]) == int(_worked(problem)[-1].rpartition(" ")[2]))
        )
    return scores


right.full_marks = 1.0


def trace(problem):
    """The problem worked out: what a supervised start teaches."""
    return "\n".join(_worked(problem))


def _judged(answer, problem):
    first, *rest = _terms(problem)
    before = first
    for place, line in enumerate(answer):
        said = LINE.fullmatch(line)
        if said is None or place >= len(rest):
            yield False
            continue
        left, change, result = int(said[1]), int(said[2] + said[3]), int(said[4])
        yield left == before and change == rest[place] and result == left + change
        before = result


def _worked(problem):
    total, *rest = _terms(problem)
    worked = []
    for term in rest:
        worked.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {total + term}")
        total += term
    return worked


def _terms(problem):
    """`… problem: 12 + 7 - 3 =` → 12, 7, −3"""
    expression = problem.rpartition(":")[2].rpartition("=")[0]
    return [int(sign + number) for sign, number in re.findall(r"([+-]?) ?(\d+)", expression)]
