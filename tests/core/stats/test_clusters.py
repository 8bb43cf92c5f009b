"""What makes a cluster of examples."""

from ftp import Example, Message, clusters_of

DOCUMENTS = [" ".join(f"word{document}-{n}" for n in range(40)) for document in range(4)]


def example(user, group="", system="", id="r"):
    turns = [Message("system", system)] if system else []
    return Example((*turns, Message("user", user), Message("assistant", "A.")), group=group, id=id)


def sizes(examples):
    names = clusters_of(examples)
    return names and sorted(names.count(name) for name in set(names))


def test_examples_without_anything_in_common_have_no_clusters():
    assert clusters_of([example(f"Question {n}?") for n in range(5)]) is None
    assert clusters_of([]) is None
    assert clusters_of([Example(text="Some text.")] * 3) is None


def test_questions_about_one_passage_are_a_cluster():
    asked = [example(f"Question {n}?\n\n{DOCUMENTS[n % 4]}") for n in range(12)]
    assert sizes(asked) == [3, 3, 3, 3]
    assert sizes([*asked, example("Another question?")]) == [1, 3, 3, 3, 3]


def test_the_same_prompt_is_a_cluster_whatever_its_blanks_and_case():
    assert sizes([example("Who is it?"), example(" who  is it?"), example("Who was it?")]) == [1, 2]


def test_clusters_join_through_what_they_share():
    both = example(f"{DOCUMENTS[0]}\nQ1?")
    assert sizes([both, example(f"{DOCUMENTS[0]}\nQ2?"), example(f"{DOCUMENTS[0]} \nq1?"), *map(example, "abcd")]) == [
        1,
        1,
        1,
        1,
        3,
    ]


def test_an_instruction_that_most_rows_carry_is_no_document():
    assert clusters_of([example(f"{DOCUMENTS[0]}\nQuestion {n}?") for n in range(9)]) is None
    assert clusters_of([example(f"Question {n}?", system=DOCUMENTS[0]) for n in range(9)]) is None


def test_a_passage_that_is_less_than_half_of_the_prompt_is_no_document():
    rows = [example(f"{DOCUMENTS[n % 3]}\n" + " ".join(f"own{n}-{m}" for m in range(50))) for n in range(9)]
    assert clusters_of(rows) is None


def test_groups_of_the_recipe_decide_where_there_are_any():
    rows = [
        example("Same?", "a"),
        example("Same?", "b"),
        example("Other?", "a"),
        example("Same?", id="r1"),
        example("Same?", id="r2"),
    ]
    assert sizes(rows) == [1, 1, 1, 2]
