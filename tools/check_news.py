"""Is the embedded headline set what its data card says? `python -m tools.check_news` prints every fault found.

A headline set is easy to spoil: a title that stands twice, once in train and once in test, a sentence pattern filled
with other nouns, a label that gives itself away. To add headlines, append lines to any of the three files and run
`python -m tools.check_news mend`: it moves each line to the split its hash names, sorts, and writes the card's figures.
"""

import functools
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from course_utils.data.news import LABELS, SPLITS, Title, describe_titles, fingerprint, load_titles, split_of
from tools.contents import ROOT
from tools.execution import write

EMBEDDED = ROOT / "course_utils" / "data" / "embedded"
CARD = EMBEDDED / "news.md"
BEGIN, END = "<!-- begin counts -->\n", "<!-- end counts -->"

PER_LABEL = 110  # headlines, at the least
LENGTHS = range(6, 36)  # characters
LABEL_WORD_SHARE = 0.10  # of a label's titles may hold the label's own word
TRIGRAM_JACCARD = 0.30  # shared character trigrams over all trigrams of two titles
EDIT_SHARE = 0.45  # edits that turn one title into the other, over the length of the longer
FRAME_SHARE = 0.60  # of the shorter title stands, in runs of two characters or more, in the other in the same order
PHRASE_LIMIT = 8  # titles in which one run of five characters may stand
ENDING_SHARE = 0.006  # of all titles may end in the same three characters

threadpool_limits(1, "blas")  # the baseline's products are so small that one core does them sooner than all

Splits = dict[str, list[Title]]


def faults(splits: Splits) -> list[str]:
    """Everything wrong with the set, as sentences; an empty list if nothing is."""
    titles = [title for split in splits.values() for title in split]
    return [*misplaced(splits), *uneven(titles), *giveaways(titles), *alike(titles), *worn(titles)]


def misplaced(splits: Splits) -> Iterator[str]:
    """Titles that stand in a split their hash does not name, and files that are not in the order of the hashes."""
    for split, titles in splits.items():
        for title in titles:
            if (wanted := split_of(title.title)) != split:
                yield f"{title.title} stands in {split}, its hash says {wanted}: run `python -m tools.check_news mend`"
        if titles != sorted(titles, key=_order):
            yield f"{split} is not in the order of the hashes: run `python -m tools.check_news mend`"


def uneven(titles: list[Title]) -> Iterator[str]:
    """Labels with too few titles, and titles too short to carry a label or longer than a headline."""
    counts = Counter(title.tag for title in titles)
    for tag in LABELS:
        if counts[tag] < PER_LABEL:
            yield f"{tag} has {counts[tag]} headlines, expected at least {PER_LABEL}: write more"
    if max(counts.values()) > 1.2 * min(counts.values()):
        yield f"labels have from {min(counts.values())} to {max(counts.values())} headlines: write more of the rarer"
    for title in titles:
        if len(title.title) not in LENGTHS:
            yield f"{title.title} has {len(title.title)} characters, expected {LENGTHS[0]} to {LENGTHS[-1]}: rewrite it"


def giveaways(titles: list[Title]) -> Iterator[str]:
    """Labels whose own word stands in too many of their titles."""
    for tag in LABELS:
        own = [title.title for title in titles if title.tag == tag]
        if (told := sum(tag in text for text in own)) > LABEL_WORD_SHARE * len(own):
            yield f"{told} of {len(own)} headlines of {tag} hold the word itself: rewrite some"


def alike(titles: list[Title]) -> Iterator[str]:
    """Pairs that say nearly the same, or that fill one sentence pattern with other words, within and across splits."""
    letters = [_letters(title.title) for title in titles]
    skeletons = [_skeleton(title.title) for title in titles]
    for a, b in _candidates(skeletons):
        first, second = letters[a], letters[b]
        trigrams = _grams(first, 3), _grams(second, 3)
        if first == second:
            reason = "the same title twice"
        elif (share := len(trigrams[0] & trigrams[1]) / len(trigrams[0] | trigrams[1])) > TRIGRAM_JACCARD:
            reason = f"{share:.0%} of their trigrams are shared"
        elif (share := edit_distance(first, second) / max(len(first), len(second))) < EDIT_SHARE:
            reason = f"edits of {share:.0%} turn one into the other"
        elif (share := frame_share(skeletons[a], skeletons[b])) > FRAME_SHARE:
            reason = f"one sentence pattern ({share:.0%} in common but for names and numbers)"
        else:
            continue
        yield f"{titles[a].title} | {titles[b].title}: {reason}; rewrite one"


def worn(titles: list[Title]) -> Iterator[str]:
    """Phrases and endings that a writer has fallen in love with."""
    phrases, endings = defaultdict(set), Counter[str]()
    for number, title in enumerate(titles):
        skeleton = _skeleton(title.title)
        endings[skeleton[-3:]] += 1
        for phrase in _grams(skeleton, 5):
            phrases[phrase].add(number)
    for phrase, where in phrases.items():
        if len(where) > PHRASE_LIMIT:
            yield f"{phrase} stands in {len(where)} headlines, expected at most {PHRASE_LIMIT}: rewrite some"
    for ending, count in endings.items():
        if count > max(2, ENDING_SHARE * len(titles)):
            yield f"{count} headlines end in {ending}: rewrite some"


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements of one character (Wagner and Fischer, 1974)."""
    row = list(range(len(b) + 1))  # row[j]: from the letters of a seen so far to the first j of b
    for i, letter in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def frame_share(a: str, b: str) -> float:
    """The share of the shorter skeleton that stands, in order, in the other; runs of one character do not count."""
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= 2) / min(len(a), len(b))


def baseline() -> Pipeline:
    """What needs no neural network: TF-IDF of characters and pairs of characters, and logistic regression."""
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(vectors, LogisticRegression(C=10.0, max_iter=1000))


def columns(titles: list[Title]) -> tuple[list[str], list[str]]:
    """Texts and labels, as scikit-learn takes them."""
    return [title.title for title in titles], [title.tag for title in titles]


def hardest(model: Pipeline, splits: Splits, split: str, count: int = 5) -> list[tuple[Title, str, float]]:
    """The titles whose own label the baseline finds least likely: (title, its label, probability of the right one).

    ``model`` was fitted on the training split. About that split itself, five models are asked, each about a fifth that
    it has not seen.
    """
    texts, tags = columns(splits[split])
    odds = (
        cross_val_predict(baseline(), texts, tags, cv=5, method="predict_proba")
        if split == "train"
        else model.predict_proba(texts)
    )
    classes = sorted(LABELS)  # the order of the columns
    rows = [
        (title, classes[row.argmax()], float(row[classes.index(title.tag)]))
        for title, row in zip(splits[split], odds, strict=True)
    ]
    return sorted(rows, key=lambda row: row[2])[:count]


def table(splits: Splits, model: Pipeline) -> str:
    """The counts and lengths for the data card, and what ``model``, fitted on the training split, gets right."""
    stats = {split: describe_titles(titles) for split, titles in splits.items()}
    whole = describe_titles([title for titles in splits.values() for title in titles])
    lines = ["| label | train | validation | test | all |", "| --- | --: | --: | --: | --: |"]
    for index, tag in enumerate(LABELS):
        numbers = [stats[split].per_label[tag] for split in SPLITS]
        lines.append(f"| {index} {tag} | {' | '.join(map(str, numbers))} | {sum(numbers)} |")
    totals = [stats[split].count for split in SPLITS]
    lines.append(f"| all | {' | '.join(map(str, totals))} | {whole.count} |")
    lines.append("")
    scores = [f"{model.score(*columns(splits[split])):.1%} of {split}" for split in SPLITS[1:]]
    lines.append(
        f"Length in characters: {whole.shortest} to {whole.longest}, median {whole.median:g}, mean {whole.mean:.1f}; "
        f"{whole.share_cut:.1%} are longer than {whole.room}. Commonest label of the test split: "
        f"{stats['test'].majority:.1%}. Baseline (TF-IDF of characters and of pairs of them, then logistic regression, "
        f"fitted on train): {' and '.join(scores)} right."
    )
    return "\n".join(lines) + "\n"


def mend(folder: Path = EMBEDDED) -> None:
    """Place every title where its hash says, sort the files and write the figures of the card."""
    titles = [title for split in SPLITS for title in load_titles(folder / f"news_{split}.jsonl")]
    splits = {split: sorted((t for t in titles if split_of(t.title) == split), key=_order) for split in SPLITS}
    for split, rows in splits.items():
        lines = [json.dumps({"tag": row.tag, "title": row.title}, ensure_ascii=False) + "\n" for row in rows]
        write(folder / f"news_{split}.jsonl", "".join(lines))
    card = (folder / CARD.name).read_text(encoding="utf-8")
    head, rest = card.split(BEGIN)
    write(
        folder / CARD.name,
        head + BEGIN + table(splits, baseline().fit(*columns(splits["train"]))) + END + rest.split(END)[1],
    )


def _order(title: Title) -> tuple[bytes, str]:
    return fingerprint(title.title), title.title


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).lower()


def _skeleton(text: str) -> str:
    """A title without what changes when a pattern is filled again: quoted names, numbers, Latin words, punctuation."""
    text = re.sub(r"《[^》]*》|“[^”]*”", "名", unicodedata.normalize("NFKC", text))
    text = re.sub(r"[A-Za-z][\w.+-]*", "名", text)
    text = re.sub(r"[0-9.]+|[〇零一二两三四五六七八九十百千万亿]+", "数", text)
    return re.sub(r"[\W_]+", "", text)


@functools.cache
def _grams(text: str, n: int) -> frozenset[str]:
    return frozenset(text[i : i + n] for i in range(len(text) - n + 1)) or frozenset([text])


def _candidates(skeletons: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs worth a closer look: three pairs of characters in common, or half of all if that is fewer."""
    counts = CountVectorizer(analyzer="char", ngram_range=(2, 2), binary=True).fit_transform(skeletons)
    shared = (counts @ counts.T).tocoo()  # [titles, titles]: how many pairs of characters both have
    for a, b, common in zip(shared.row, shared.col, shared.data, strict=True):
        if a < b and common >= min(3, len(skeletons[a]) // 2, len(skeletons[b]) // 2):
            yield int(a), int(b)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["mend"]:
            mend()
        case []:
            pass
        case other:
            sys.exit(f"expected nothing or `mend`, got {' '.join(other)}: python -m tools.check_news [mend]")
    splits = {split: load_titles(EMBEDDED / f"news_{split}.jsonl") for split in SPLITS}
    model = baseline().fit(*columns(splits["train"]))
    print(table(splits, model))
    for split in SPLITS:
        print(f"hardest of {split} for TF-IDF and logistic regression:")
        for title, guess, odds in hardest(model, splits, split):
            print(f"    {title.tag}, taken for {guess} ({odds:.1%} for the right one): {title.title}")
    found = faults(splits)
    print("\n".join(found) or "no fault found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
