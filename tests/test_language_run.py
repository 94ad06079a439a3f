"""The language project: what a model says of a text, runs that resume and share, texts that it writes, the commands."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from news_base import one_thread  # noqa: F401

from course_utils.data.packing import IGNORED, pack
from course_utils.data.tokenizer import Characters
from course_utils.data.verses import Texts
from course_utils.language import evaluate as scoring
from course_utils.language import generate as writing
from course_utils.language import model as models
from course_utils.language import train as training
from course_utils.language.config import Config
from course_utils.language.data import batch, batches, encode, in_order, load_texts
from course_utils.language.evaluate import baselines, document_nats, evaluate, score, table
from course_utils.language.form import FORMS, is_octave, is_quatrain, is_scene
from course_utils.language.generate import write
from course_utils.language.model import Built, LanguageModel, build, open_run, seal
from course_utils.language.optimizer import make_optimizer
from course_utils.language.train import train
from course_utils.launch import Process, launch
from course_utils.training import run as running
from course_utils.training.folder import CARD
from course_utils.training.task import RunResult
from tools import make_language

SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "kv_heads": 1, "mlp_width": 32, "length": 32}


def rhymes(number: int) -> str:
    draw = random.Random(number)
    return "\n".join("".join(draw.choice("abcdefg") for _ in range(4)) + "h" for _ in range(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 60 documents of four lines, each of four letters and an h."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "rhymes.txt").write_text("\n\n".join(map(rhymes, range(60))) + "\n")
    return folder


def small(folder: Path, **choices: Any) -> Config:
    own: dict[str, Any] = {"text": str(folder / "rhymes.txt"), "output": str(folder), "processes": 1}
    sizes = {} if "base" in choices else SIZES
    return Config(
        **{**own, **sizes, "epochs": 2, "batch_size": 8, "dropout": 0.0, "lr": 1e-2, "muon_factor": 5.0, **choices}
    )


@pytest.fixture(scope="module")
def done(folder: Path) -> RunResult:
    return train(small(folder, epochs=12, output=str(folder / "done")))


def weights(result: RunResult, name: str = "best") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    assert result.folder is not None
    tensors = load_file(result.folder / f"{name}.safetensors")
    return {key: tensor for key, tensor in tensors.items() if key.startswith("model")}


def without_time(result: RunResult) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if "second" not in key} for row in result.epochs]


# ---- what a model says of texts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(folder: Path) -> Built:
    config = small(folder)
    made = build(config, load_texts(config))
    torch.manual_seed(0)
    for p in made.decoder.parameters():  # so that what it says depends on what it sees
        p.data += 0.5 * torch.randn_like(p)
    return made


def alone(built: Built, text: str) -> float:
    """The nats of one document, by itself, without rows, masks or numbers of documents."""
    ids = built.tokenizer.encode(text)
    logits = built.decoder(torch.tensor([[built.tokenizer.end, *ids]]))[0]
    return F.cross_entropy(logits, torch.tensor([*ids, built.tokenizer.end]), reduction="sum").item()


def test_nats_of_documents_are_those_of_each_alone(built: Built) -> None:
    texts = [rhymes(0), "abc", "", rhymes(1), "h\nh"]
    data = encode(texts, built.tokenizer, 32)
    assert document_nats(built, data, size=2) == pytest.approx([alone(built, text) for text in texts], rel=1e-4)


def test_a_packed_document_does_not_see_the_others(built: Built) -> None:
    texts = [rhymes(0)[:9], "abc", "", "h\nhg"]
    data = encode(texts, built.tokenizer, 32)
    rows = pack(data.ids, 32, data.end)
    assert len(rows.input_ids) == 1
    x, y = batch(rows)
    loss = F.cross_entropy(LanguageModel(built.decoder)(x), y, ignore_index=IGNORED, reduction="sum")
    assert loss.item() == pytest.approx(sum(alone(built, text) for text in texts), rel=1e-4)
    x[:, 2] = 1  # one document, as the model is told: now it sees all that stands before
    mixed = F.cross_entropy(LanguageModel(built.decoder)(x), y, ignore_index=IGNORED, reduction="sum")
    assert abs(mixed.item() - loss.item()) > 0.1


def test_a_document_longer_than_a_row_is_judged_in_parts(built: Built) -> None:
    long = "".join(rhymes(n) for n in range(4))
    ids, end = built.tokenizer.encode(long), built.tokenizer.end
    inputs, targets, total = [end, *ids], [*ids, end], 0.0
    for start in range(0, len(inputs), 32):
        logits = built.decoder(torch.tensor([inputs[start : start + 32]]))[0]
        total += F.cross_entropy(logits, torch.tensor(targets[start : start + 32]), reduction="sum").item()
    assert document_nats(built, encode([long, "a"], built.tokenizer, 32))[0] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_holds_each_token_once_for_any_number_of_processes(packed: bool) -> None:
    texts = [rhymes(n)[: n % 25] for n in range(50)]
    data = encode(texts, Characters("abcdefgh\n"), 16)
    found = []
    for world in (1, 2, 3):
        shares = [
            batches(data, 6, packed=packed, seed=1, epoch=2, rank=rank, world_size=world) for rank in range(world)
        ]
        tokens = [sorted(y[y != IGNORED].tolist()) for _, y in (pair for share in shares for pair in share)]
        found.append(sorted(token for row in tokens for token in row))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 0.8 * data.tokens  # but for a last batch that is not full
    assert data.rows(packed) == sum(len(x) for x, _ in batches(data, 1, packed=packed, seed=0, epoch=0))
    whole = sum(int((y != IGNORED).sum()) for _, y in batches(data, 1, packed=packed, seed=0, epoch=0))
    assert whole == data.tokens == sum(int((y != IGNORED).sum()) for _, y in in_order(data, 4))


def test_extra_texts_are_learned_from_and_choose_nothing(folder: Path) -> None:
    own, both = (load_texts(small(folder, extra=extra)) for extra in ((), ("tang", "octaves")))
    assert len(both.train) == len(own.train) + 12_122 + 19_190
    assert both[1:] == own[1:]
    assert len(both.alphabet) > 5_000


# ---- runs --------------------------------------------------------------------------------------------------------


def test_it_learns_the_form_and_beats_pairs(folder: Path, done: RunResult) -> None:
    """Every fifth letter is an h, then the line ends: what is left are four of seven letters a line."""
    losses = [row["loss"] for row in done.epochs]
    assert losses[-1] < 0.8 * losses[0]
    assert done.best_epoch == 1 + min(range(12), key=lambda n: done.epochs[n]["validation_loss"])
    config, built = open_run(done.folder)
    texts = load_texts(config)
    assert [json.loads(line)["text"] for line in (done.folder / "test.jsonl").read_text().splitlines()] == texts.test
    judged = json.loads((done.folder / "history.json").read_text())["data"]["test"]
    assert "rhymes.txt" in judged
    assert f"({len(texts.test)} texts, " in judged
    assert f"best epoch ({done.best_epoch}) | {done.validation.loss:.4f} |" in (done.folder / CARD).read_text()
    found = evaluate(built, texts.test)
    assert found.nats == pytest.approx(done.test.loss, rel=1e-4)
    bigram = baselines(texts.train, texts.alphabet, texts.validation, texts.test)[1]
    assert "bigram" in bigram.name
    assert found.nats < bigram.nats


def test_a_resumed_run_is_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"epochs": 3, "dropout": 0.2, "accumulate": 2, "ema": 0.2}
    whole = train(small(folder, output=str(tmp_path / "whole"), **choices))
    real, calls = running.train_step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(running, "train_step", interrupted)
    first = train(small(folder, output=str(tmp_path / "parts"), **choices))
    assert (first.stopped, first.steps) == (True, 4)
    monkeypatch.setattr(running, "train_step", real)
    parts = train(small(folder, output=str(tmp_path / "parts"), resume=True, **choices))
    assert without_time(whole) == without_time(parts)
    for name in ("best", "last"):
        assert all(torch.equal(a, weights(parts, name)[key]) for key, a in weights(whole, name).items())


def test_the_layers_matrices_are_muons_and_the_table_is_not(built: Built) -> None:
    optimizer, _ = make_optimizer(Config(), built.decoder, 10)
    rates = {name: (g["muon"], g["factor"]) for g in optimizer.param_groups for name in g["param_names"]}
    assert len(rates) == len(list(built.decoder.parameters()))
    for name, (muon, factor) in rates.items():
        assert muon == (name.startswith("decoder.") and "norm" not in name), name
        assert factor == (0.9 if muon else 1.0)
    adamw, _ = make_optimizer(Config(optimizer="adamw"), built.decoder, 10)
    assert {group["initial_lr"] for group in adamw.param_groups} == {4e-3}
    assert Config(base="embedded").rate == pytest.approx(Config().rate / 10)


def test_two_processes_are_one(folder: Path, tmp_path: Path) -> None:
    one = train(small(folder, output=str(tmp_path / "one"), packed=False))
    two = launch(train, 2, small(folder, output=str(tmp_path / "two"), packed=False, processes=2))
    assert without_time(two[0]) == without_time(two[1])
    for ours, theirs in zip(without_time(one), without_time(two[0]), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two[0])[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_from_another(folder: Path, tmp_path: Path, done: RunResult) -> None:
    """The first loss is the base's own; its tokenizer comes with it, and rows may be longer."""
    on = train(small(folder, base=str(done.folder), output=str(tmp_path), epochs=1, lr=1e-6, length=64))
    assert on.epochs[0]["loss"] < done.epochs[2]["loss"]
    assert open_run(on.folder)[1].decoder.config.max_length == 64
    (tmp_path / "other.txt").write_text("\n\n".join(f"xyz {n}" * 20 for n in range(40)))
    with pytest.raises(ValueError, match=r"'x' .*is none of 9"):
        train(small(folder, base=str(done.folder), text=str(tmp_path / "other.txt"), output=str(tmp_path)))


def test_pieces_of_bytes(folder: Path, tmp_path: Path) -> None:
    result = train(small(folder, tokenizer="bpe", vocab_size=300, output=str(tmp_path), epochs=1))
    config, built = open_run(result.folder)
    texts = load_texts(config)
    found = evaluate(built, texts.test)
    assert built.tokenizer.vocab_size <= 300
    assert found.nats_per_token > found.nats  # a token is more than a character
    assert write(built, ["Ünknown"], tokens=3)[0].startswith("Ünknown")


def test_the_embedded_form_holds_a_model_in_half_the_bytes(
    folder: Path, tmp_path: Path, done: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, built = open_run(done.folder)
    seal(built, config, tmp_path / "model.safetensors")
    monkeypatch.setattr(models, "MODEL", tmp_path / "model.safetensors")
    again, sealed = open_run("embedded", max_length=20)
    assert again == config
    assert sealed.decoder.config.max_length == 20
    for (name, a), b in zip(built.decoder.named_parameters(), sealed.decoder.parameters(), strict=True):
        assert torch.equal(a.half().float(), b), name
    assert sealed.decoder.head.weight is sealed.decoder.word_embedding.weight
    monkeypatch.setattr(models, "MODEL", tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="none"):
        open_run("embedded")


def test_the_best_seed_is_written_with_its_card(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"text": str(folder / "rhymes.txt"), "processes": 1}
    monkeypatch.setattr(make_language, "BOTH", {**own, **SIZES})
    monkeypatch.setattr(make_language, "ALONE", {**own, "length": 32})
    monkeypatch.setattr(make_language, "SAMPLES", 5)
    monkeypatch.setattr(
        "sys.argv", ["make", "--before", "1", "--epochs", "1", "--seeds", "0", "1", "--to", str(tmp_path)]
    )
    make_language.main()
    found = {int(seed): float(nats) for seed, nats in re.findall(r"seed (\d): ([\d.]+) nats", capsys.readouterr().out)}
    monkeypatch.setattr(models, "MODEL", tmp_path / "tang.safetensors")
    config, built = open_run("embedded")
    assert config.seed == min(found, key=found.__getitem__)
    texts = load_texts(config)
    assert evaluate(built, texts.validation).nats == pytest.approx(min(found.values()), abs=1e-2)  # 16 bits
    page = (tmp_path / "tang.md").read_text()
    assert hashlib.sha256((tmp_path / "tang.safetensors").read_bytes()).hexdigest() in page
    assert f"{evaluate(built, texts.test).nats:.3f}" in page


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"width": 100}, "width 100 .* 6 heads"),
        ({"width": 18}, "width 18"),
        ({"cut": "lines"}, "cut is 'lines'"),
        ({"text": "my.txt", "corpus": "shakespeare"}, "corpus is 'shakespeare'"),
        ({"vocab_size": 300}, "vocab_size is 300, .*tokenizer characters"),
        ({"optimizer": "adamw", "muon_factor": 2.0}, "muon_factor is 2.0"),
        ({"base": "embedded", "width": 96}, "width is 96, .*base embedded"),
        ({"tokenizer": "words"}, "tokenizer"),
        ({"extra": ["tang"]}, "extra holds tang"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Config.load(None, **choices)


# ---- texts that are written --------------------------------------------------------------------------------------


def test_what_is_written_begins_as_told_and_is_drawn_from_the_seed(done: RunResult) -> None:
    _, built = open_run(done.folder)
    texts = write(built, ["abc", "", "gg"], seed=3)
    assert [texts[0][:3], texts[2][:2]] == ["abc", "gg"]
    assert write(built, ["abc", "", "gg"], seed=3) == texts
    assert write(built, ["abc", "", "gg"], seed=4) != texts
    likeliest = write(built, ["abc"], temperature=0)
    assert likeliest == write(built, ["abc"], temperature=0, seed=9)
    assert len(write(built, ["abc"], tokens=2)[0]) <= 5


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [7, 7, 7, 7]])
def test_poems(lengths: list[int]) -> None:
    lines = ["月" * length for length in lengths]
    assert is_quatrain("\n".join(lines))
    assert is_octave("\n".join(lines * 2))
    for other in (lines[:3], [*lines[:3], "月" * 6], [*lines, ""], lines * 2):
        assert not is_quatrain("\n".join(other))


def test_every_text_of_the_corpora_has_their_form() -> None:
    for name, form in FORMS.items():
        texts = load_texts(Config(corpus=name))
        held = [*texts.validation, *texts.test]
        share = sum(map(form.holds, held)) / len(held)
        assert share > (0.8 if name == "shakespeare" else 0.99)


def test_scenes() -> None:
    assert is_scene("[Enter ANN.]\n\nANN.\nWho's there?\n\nBEN.\nNo")
    assert not is_scene("ANN.\n\nWho's there?\n\nBEN")
    assert not is_scene("[Enter ANN.\n\nANN.\nWho's there?\n\n")
    assert not is_scene("no part ends here")


# ---- scores ------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    """Two documents of 4 and 9 characters and their ends: 15 to guess."""
    found = score("m", [6.0, 9.0], ["abcd", "abcdefghi"], tokens=10)
    assert found.nats == 1.0
    assert found.perplexity == pytest.approx(2.71828, rel=1e-5)
    assert found.nats_per_token == 1.5
    assert found.interval == (pytest.approx(9 / 10), pytest.approx(6 / 5))  # both the one, or both the other
    assert table([found]).splitlines()[1].split() == ["m", "1.000", "0.900", "to", "1.200", "2.7", "1.500", "4.5", "-"]


def test_an_untrained_model_guesses_between_all_tokens(folder: Path) -> None:
    config = small(folder)
    texts = load_texts(config)
    found = evaluate(build(config, texts), texts.test)
    assert found.perplexity == pytest.approx(len(texts.alphabet) + 1, rel=0.1)


# ---- commands ----------------------------------------------------------------------------------------------------


def test_the_commands(folder: Path, done: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    scoring.main([str(done.folder), "--split", "validation"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rhymes, validation: 3 texts"
    assert [line.split()[0] for line in lines[2:]] == ["decoder", "unigram,", "bigram,", "trigram,", "Kneser-Ney,"]
    scoring.main([str(done.folder), "--no-baselines", "--json"])
    assert json.loads(capsys.readouterr().out)["scores"][0]["nats"] == pytest.approx(done.test.loss, rel=1e-4)
    writing.main(["ab", "--run", str(done.folder), "--count", "2", "--top-p", "0.9"])
    assert [text[:2] for text in capsys.readouterr().out.strip().split("\n\n")] == ["ab", "ab"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--run", "nowhere"], "no run nowhere: train one with python -m course_utils.language.train"),
        (["xyz"], "'x'"),
        (["--count", "0"], "count is 0"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["a" * 40], "leaves no room"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(done: RunResult, words: list[str], told: str) -> None:
    run = [] if "--run" in words else ["--run", str(done.folder)]
    with pytest.raises(SystemExit, match=rf"^error: .*{told}"):
        writing.main([*words, *run])


def test_what_cannot_be_trained_on_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    for words, told in (
        (["--text", str(tmp_path / "none.txt")], "no file"),
        (["--text", str(tmp_path / "short.txt")], "9 characters"),
        (["--base", str(tmp_path / "none"), "--text", str(folder / "rhymes.txt")], "no run"),
        (["--heads", "5"], "5 heads"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{told}"):
            training.main([*words, "--output", str(tmp_path), "--processes", "1"])
    with pytest.raises(ValueError, match="1 rows of 2000 tokens cannot be shared by 3"):
        training.make_task(small(folder, length=2000), Process(0, 3, 0, torch.device("cpu"), "gloo"))
    assert Texts(["a"], ["b"], ["a"]).alphabet == ["a", "b"]
