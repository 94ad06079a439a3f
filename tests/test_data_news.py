"""The headlines: what the embedded set holds, how files are read, what is said about lines that are not right."""

import json
import re
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from course_utils.data.news import (
    LABELS,
    LABELS_ENGLISH,
    SPLITS,
    Title,
    describe_titles,
    fingerprint,
    index_to_label,
    label_to_index,
    load_titles,
    split_of,
)
from tools import check_news

GOOD = '{"tag": "体育", "title": "补时扳平"}'


@pytest.fixture(scope="module")
def splits():
    return {split: load_titles(split) for split in SPLITS}


@pytest.fixture(scope="module")
def model(splits):
    return check_news.baseline().fit(*check_news.columns(splits["train"]))


@pytest.fixture
def written(tmp_path):
    """Writes text or bytes to a file and returns its path."""

    def write(content: str | bytes, name: str = "titles.json") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


# The labels


def test_labels_stand_in_the_order_of_the_source():
    assert (
        " ".join(LABELS) == "家居 房产 股票 社会 文化 国际 教育 军事 彩票 旅游 体育 科技 汽车 健康 娱乐 财经 时尚 游戏"
    )
    assert len(LABELS_ENGLISH) == len(set(LABELS_ENGLISH)) == len(LABELS) == 18
    assert (LABELS_ENGLISH[2], LABELS_ENGLISH[8], LABELS_ENGLISH[15]) == ("stocks", "lottery", "finance")


def test_labels_and_indices_turn_into_each_other():
    assert [label_to_index(tag) for tag in LABELS] == list(range(18))
    assert [index_to_label(index) for index in range(18)] == list(LABELS)
    assert index_to_label(np.argmax(np.eye(18)[7])) == "军事"  # as a model's answer comes
    assert Title("游戏", "新赛季开启").label == 17
    with pytest.raises(FrozenInstanceError):
        Title("游戏", "新赛季开启").tag = "体育"


@pytest.mark.parametrize("index", [-1, 18])
def test_an_index_of_no_label_is_refused(index):
    with pytest.raises(ValueError, match=f"^{index} .*0 to 17"):
        index_to_label(index)


def test_a_word_that_is_no_label_is_refused():
    with pytest.raises(ValueError, match=r"^'sports'.*家居 房产"):
        label_to_index("sports")


# The embedded set


def test_embedded_set_has_enough_of_every_label_in_every_split(splits):
    counts = {split: describe_titles(titles).per_label for split, titles in splits.items()}
    for tag in LABELS:
        train, validation, test = (counts[split][tag] for split in SPLITS)
        assert train + validation + test >= 110
        assert (train >= 77, validation >= 8, test >= 18) == (True, True, True), tag
    sizes = np.array([len(splits[split]) for split in SPLITS])
    assert sizes.sum() >= 1980
    assert sizes / sizes.sum() == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_no_title_stands_in_two_splits(splits):
    texts = [{re.sub(r"\W", "", title.title) for title in splits[split]} for split in SPLITS]
    assert len(set.union(*texts)) == sum(len(titles) for titles in splits.values())


def test_embedded_set_has_no_fault(splits):
    assert check_news.faults(splits) == []


def test_embedded_files_are_plain_json_lines():
    for split in SPLITS:
        content = (check_news.EMBEDDED / f"news_{split}.jsonl").read_bytes()
        assert content.endswith(b"}\n")
        assert b"\r" not in content
        assert all(list(json.loads(line)) == ["tag", "title"] for line in content.decode().splitlines())


def test_data_card_says_what_the_set_holds(splits, model):
    """Counts and lengths to the letter; the baseline to within a point, as releases of scikit-learn differ a little."""

    def accuracies(text):
        return [float(number) for number in re.findall(r"([\d.]+)% of (?:validation|test)", text)]

    card = check_news.CARD.read_text(encoding="utf-8")
    said, found = card.split(check_news.BEGIN)[1].split(check_news.END)[0], check_news.table(splits, model)
    assert said.split("Baseline")[0] == found.split("Baseline")[0]
    assert len(accuracies(said)) == 2
    assert accuracies(said) == pytest.approx(accuracies(found), abs=1.0)
    assert all(re.search(rf"^\| {index} {tag} \w+", card, re.M) for index, tag in enumerate(LABELS))  # each is defined


def test_first_lines_are_a_fair_sample(splits):
    """The card says that prefixes may be taken for a learning curve."""
    quarter = describe_titles(splits["train"][: len(splits["train"]) // 4]).per_label
    assert all(quarter[tag] >= 10 for tag in LABELS)


def test_baseline_is_far_from_guessing_and_far_from_perfect(splits, model):
    majority = describe_titles(splits["validation"]).majority
    assert 1 / 18 < majority < 0.1
    assert 0.45 < model.score(*check_news.columns(splits["validation"])) < 0.85
    assert 0.45 < model.score(*check_news.columns(splits["test"])) < 0.85


def test_labels_shuffled_among_titles_leave_the_baseline_guessing(splits):
    """The check above would see labels that are out of step with their titles."""
    texts, tags = check_news.columns(splits["train"])
    wrong = list(np.random.default_rng(0).permutation(tags))
    assert check_news.baseline().fit(texts, wrong).score(*check_news.columns(splits["validation"])) < 0.2


def test_hardest_titles_come_hardest_first(splits, model):
    rows = check_news.hardest(model, splits, "test")
    assert len(rows) == 5
    assert [odds for _, _, odds in rows] == sorted(odds for _, _, odds in rows)
    assert all(guess != title.tag and odds < 0.1 for title, guess, odds in rows)


# Its checks: each sees the fault it is there for


def test_a_title_in_the_wrong_split_is_found(splits):
    moved = {**splits, "train": [*splits["train"], splits["test"][0]]}
    assert "its hash says test" in "\n".join(check_news.misplaced(moved))
    shuffled = {**splits, "train": splits["train"][::-1]}
    assert "train is not in the order of the hashes" in "\n".join(check_news.misplaced(shuffled))


def test_rare_labels_and_odd_lengths_are_found(splits):
    titles = [title for title in splits["train"] if title.tag != "彩票"] + [
        Title("彩票", "中了"),
        Title("彩票", "长" * 36),
    ]
    found = "\n".join(check_news.uneven(titles))
    assert "彩票 has 2 headlines, expected at least 110" in found
    assert "中了 has 2 characters, expected 6 to 35" in found
    assert "has 36 characters" in found


def test_labels_that_give_themselves_away_are_found():
    titles = [Title(tag, f"今天的{tag}新闻有哪些") for tag in LABELS]
    assert len(list(check_news.giveaways(titles))) == 18


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("门前的柿子树今年挂满了果", "门前的柿子树，今年挂满了果！", "the same title twice"),
        ("房东突然要卖房，租客可以不搬吗", "租客可以不搬吗，房东突然要卖房", "of their trigrams are shared"),
        ("新款轿车上市售价九万", "新版轿车上市标价十万", "edits of 30% turn one into the other"),
        (
            "《春夜》首映，票房3天破2亿，主演发文致谢",
            "《渡口归人》在京首映，累计票房11天破30亿，众主演连夜发文致谢",
            "one sentence pattern",
        ),
    ],
)
def test_titles_that_are_too_much_alike_are_found(splits, first, second, reason):
    titles = [*splits["validation"], Title("股票", first), Title("股票", second)]
    found = list(check_news.alike(titles))
    assert len(found) == 1, found
    assert found[0].startswith(f"{first} | {second}: ")
    assert reason in found[0]


def test_worn_phrases_and_endings_are_found(splits):
    words = ["猫咪", "电梯", "苹果", "台灯", "书桌", "雨伞", "水壶", "纽扣", "邮票", "棉被", "铁锅", "竹椅"]
    titles = [*splits["validation"], *(Title("家居", f"{word}到底应该怎么选才好") for word in words)]
    found = "\n".join(check_news.worn(titles))
    assert "到底应该怎 stands in 12 headlines" in found
    assert "12 headlines end in 选才好" in found


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "新闻", 2), ("新闻", "新闻", 0), ("kitten", "sitting", 3), ("abc", "ca", 3)]
)
def test_edit_distance(a, b, edits):
    assert check_news.edit_distance(a, b) == check_news.edit_distance(b, a) == edits


def test_mend_moves_what_was_appended_and_nothing_else(tmp_path, monkeypatch):
    """The card's baseline has a test of its own; one that learns nothing serves here."""

    class Nothing:
        def fit(self, texts, tags):
            return self

        def score(self, texts, tags):
            return 0.5

    def content(file):
        return re.sub(r"\d+\.\d% of (validation|test)", "% of", file.read_text(encoding="utf-8"))

    monkeypatch.setattr(check_news, "baseline", Nothing)
    before = {}
    for file in [*(check_news.EMBEDDED / f"news_{split}.jsonl" for split in SPLITS), check_news.CARD]:
        shutil.copy(file, tmp_path)
        before[file.name] = content(file)
    check_news.mend(tmp_path)
    assert {name: content(tmp_path / name) for name in before} == before
    new = next(text for n in range(99) if split_of(text := f"第{n}届邻里运动会在雨中闭幕") == "test")
    with (tmp_path / "news_train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"tag": "体育", "title": new}) + "\n")
    check_news.mend(tmp_path)
    after = {name: content(tmp_path / name) for name in before}
    assert after["news_train.jsonl"] == before["news_train.jsonl"]
    added = set(after["news_test.jsonl"].splitlines()) - set(before["news_test.jsonl"].splitlines())
    assert [json.loads(line)["title"] for line in added] == [new]
    assert after["news.md"] != before["news.md"]


def test_split_depends_on_the_words_alone():
    assert (
        fingerprint("补时第97分钟，VAR说了算！")
        == fingerprint("补时第９７分钟 ｖａｒ说了算")
        != fingerprint("补时第98分钟")
    )
    drawn = [split_of(f"第{n}条") for n in range(5000)]
    assert [drawn.count(split) / 5000 for split in SPLITS] == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


# Files


def test_a_file_is_read_in_order_and_other_fields_are_left(written):
    file = written(
        '{"tag": "体育 ", "title": " 补时扳平 ", "content": "正文", "id": 7}\r\n'
        "\n   \n"
        '{"title": "半年\\u7ebf\\u5f97而复失\u2028", "tag": "股票"}'
    )
    assert load_titles(file) == load_titles(str(file)) == [Title("体育", "补时扳平"), Title("股票", "半年线得而复失")]


def test_a_line_separator_inside_a_title_ends_no_line(written):
    assert load_titles(written('{"tag": "文化", "title": "上\u2028下\x85左"}'))[0].title == "上\u2028下\x85左"


def test_an_embedded_name_is_not_a_file_of_that_name(written, monkeypatch):
    monkeypatch.chdir(written(GOOD, "train").parent)
    assert len(load_titles("train")) > 1000
    assert load_titles("./train") == load_titles(Path("train")) == [Title("体育", "补时扳平")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tag": "体育", "title": "补时"', "column 28"),
        ("体育\t补时扳平", "found 体育\t补时扳平: write one complete object"),
        ("{'tag': '体育', 'title': '补时'}", "double quotes: write the line with json.dumps"),
        ('[{"tag": "体育", "title": "补时"},', "write one complete object on each line"),
        ('["体育", "补时"]', "a JSON array"),
        ('"体育"', 'value "体育"'),
        ("null", "value null"),
        (GOOD + GOOD, "column 31"),
        pytest.param("[" * 100_000, "too deeply nested", id="deeply nested"),
        ("{}", "'tag' is missing (found none)"),
        ('{"label": "体育", "title": "补时"}', "'tag' is missing (found 'label', 'title')"),
        ('{"tag": "体育", "text": "补时"}', "'title' is missing (found 'tag', 'text')"),
        ('{"tag": 1.5, "title": "补时"}', "'tag' is 1.5"),
        ('{"tag": true, "title": "补时"}', "'tag' is true"),
        ('{"tag": 10, "title": "补时"}', "unknown tag '10': write one of"),
        ('{"tag": "体育", "title": 10}', "'title' is 10"),
        ('{"tag": ["体育"], "title": "补时"}', "'tag' is [\"体育\"]"),
        ('{"tag": "体育", "title": null}', "'title' is null"),
        ('{"tag": "体育", "title": ""}', "'title' is empty"),
        ('{"tag": "体育", "title": "\u3000 "}', "'title' is empty"),
        ('{"tag": " ", "title": "补时"}', "'tag' is empty"),
        ('{"tag": "sports", "title": "补时"}', "'sports': write one of 家居 房产 股票"),
        ('{"tag": "体 育", "title": "补时"}', "'体 育': write one of"),
        ('{"tag": "\u2f42化", "title": "补时"}', "U+2F42 U+5316 looks like 文化"),
        ('{"tag": "体育\\u200b", "title": "补时"}', "U+4F53 U+80B2 U+200B looks like 体育"),
        ('{"tag": NaN, "title": "补时"}', "'tag' is NaN"),
        ('{"tag": "体育", "title": NaN}', "'title' is NaN"),
        ('{"tag": {"id": 10}, "title": "补时"}', "'tag' is an object"),
        (
            '{"tag": "体育", "title": "补时\\ud83d半"}',
            "'title' holds U+D83D as character 3, half of a",
        ),
        (
            '{"tag": "体育", "title": "补\\u0000时"}',
            "'title' holds U+0000 as character 2, a control",
        ),
        ('{"tag": "体育", "title": "补\\u001b[1m"}', "U+001B as character 2"),
        ('{"tag": "体育", "title": "补\x07时"}', "remove it, or write it as json.dumps does"),
        ('{"tag": "体育", "title": "\u200b\u2060"}', "'title' is empty (only U+200B U+2060)"),
        ('{"tag": "体育", "title": " \\ufeff\u3164\u0301"}', "'title' is empty (only U+0301 U+3164 U+FEFF)"),
        ('{"tag": "体育", "title": "补", "tag": "股票"}', "'tag' stands 2 times"),
        ('{"tag": "体育", "title": "补", "title": "补"}', "'title' stands 2 times"),
        ("\ufeff" + GOOD, "byte-order mark stands before the line"),
        ("\r".join([GOOD] * 3), "CR alone: convert the file with tr"),
        pytest.param('{"id": ' + "1" * 5000 + "}", "not JSON (Exceeds the limit", id="a very long number"),
        pytest.param('{"' + "x" * 10**6 + '": 1}', "'tag' is missing (found 'xxx", id="a very long name"),
    ],
)
def test_a_bad_line_is_named_with_its_mend(written, line, message):
    file = written(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: ")) as caught:
        load_titles(file)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(file))


def test_further_bad_lines_are_counted(written):
    with pytest.raises(ValueError, match=r"line 2: .*\(2 more lines of this file are wrong\)$"):
        load_titles(written(f"{GOOD}\nx\ny\n{GOOD}\nz\n"))


@pytest.mark.parametrize("content", ["", "\n \n", "\r\n"])
def test_an_empty_file_is_refused(written, content):
    with pytest.raises(ValueError, match=r"titles\.json holds no title: write one object a line"):
        load_titles(written(content))


def test_a_file_that_is_not_there_is_named_with_what_is(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*valid_tag_news\.json: check the path, or give 'train'"
    ):
        load_titles(tmp_path / "valid_tag_news.json")
    with pytest.raises(FileNotFoundError, match=r"'train', 'validation', 'test' \(embedded titles\)"):
        load_titles("valid")
    with pytest.raises(ValueError, match="is a folder: give one of its files"):
        load_titles(tmp_path)


def test_what_is_odd_but_can_be_read_is_read(written):
    """No width inside a title, doubled fields that are not read, an emoji of several parts, a long text."""
    lines = [
        '{"tag": "体育", "title": "补\u200b时", "id": 1, "id": 2, "more": {"tag": 1, "tag": 2}}',
        '{"tag": "体育", "title": "👩\u200d👧 \\ud83d\\ude00"}',
        '{"tag": "体育", "title": "？？？"}',
        '{"tag": "体育", "title": "' + "长" * 10**6 + '"}',
    ]
    found = [title.title for title in load_titles(written("\n".join(lines)))]
    assert found == ["补\u200b时", "👩\u200d👧 😀", "？？？", "长" * 10**6]


def test_titles_with_two_labels_are_told_and_kept(written, caplog):
    lines = [
        GOOD,
        GOOD,
        GOOD.replace("体育", "股票"),
        '{"tag": "股票", "title": "另一条"}',
        GOOD.replace("体育", "社会"),
    ]
    assert len(load_titles(written("\n".join(lines)))) == 5
    (said,) = caplog.messages
    assert "titles.json: 2 titles stand with two labels, first in lines 1 and 3 (体育 and 股票): 补时扳平" in said
    load_titles("train")
    assert len(caplog.messages) == 1, "the embedded titles contradict each other"


# Statistics


def test_statistics_of_a_small_set():
    titles = [Title("体育", "四" * 4), Title("体育", "十" * 18), Title("股票", "九" * 19), Title("游戏", "五" * 5)]
    found = describe_titles(titles)
    assert (found.count, found.shortest, found.median, found.mean, found.longest) == (4, 4, 11.5, 11.5, 19)
    assert (found.share_cut, found.room, found.majority) == (0.25, 18, 0.5)
    assert describe_titles(titles, room=4).share_cut == 0.75
    assert list(found.per_label) == list(LABELS)
    assert (found.per_label["体育"], found.per_label["家居"]) == (2, 0)
    with pytest.raises(ValueError, match="there are no titles to describe"):
        describe_titles([])
