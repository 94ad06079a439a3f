"""What is built: heads from seeds, counts by formulas, peft's twins, bases from a folder; what a run's file refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from news_base import DEPTH, HIDDEN, WIDTH, make_base, one_thread, small  # noqa: F401
from torch import Tensor, nn

from course_utils.data.news import load_titles
from course_utils.models import load_text
from course_utils.news.config import TACTICS, Config
from course_utils.news.data import encode
from course_utils.news.model import Built, build, count
from course_utils.news.predict import fill, open_run
from course_utils.training import checkpoint
from course_utils.tuning import tuned_layers

HEAD = 18 * WIDTH + 18
PEFT = ("lora", "ia3", "prompt", "p_tuning", "prefix", "p_tuning_v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news")
    make_base(folder / "base")
    make_base(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def x(folder: Path) -> Tensor:
    built = build(small(folder))
    return encode(load_titles("train")[:6], built.tokenizer, built.pad).batch(range(6))[0]


def logits(built: Built, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return built.model.eval()(x)


def trained_count(tactic: str, length: int = 10, hidden: int = 128, width: int = 32, rank: int = 8) -> int:
    """The papers' formulas, for two layers of width 32."""
    kv = 2 * DEPTH * length * WIDTH
    return HEAD + {
        "head": 0,
        "prompt": length * WIDTH,
        "p_tuning": length * WIDTH + 2 * WIDTH * hidden + hidden**2 + 2 * hidden + WIDTH,
        "p_tuning_v2": kv,
        "prefix": length * WIDTH + (WIDTH + 1) * hidden + (hidden + 1) * 2 * DEPTH * WIDTH,
        "adapter": 2 * DEPTH * (2 * WIDTH * width + width + WIDTH),
        "lora": 3 * DEPTH * rank * 2 * WIDTH,
        "ia3": DEPTH * (2 * WIDTH + HIDDEN),
    }[tactic]  # fmt: skip


@pytest.mark.parametrize("tactic", [tactic for tactic in TACTICS if tactic != "full"])
def test_counts_by_the_formula(folder: Path, tactic: str) -> None:
    built = build(small(folder, tactic=tactic))
    trainable, total = count(built.model)
    assert trainable == trained_count(tactic) == sum(p.numel() for p in built.trained().parameters())
    whole = count(build(small(folder, tactic="full")).model)
    assert whole[0] == whole[1]
    assert total == whole[1] + trainable - HEAD


@pytest.mark.parametrize("tactic", PEFT)
def test_the_same_tactic_through_peft(folder: Path, tactic: str, x: Tensor) -> None:
    """As many parameters, the same head from the same seed, and LoRA and IA3, which begin as the bare model, equal."""
    ours, theirs = (build(small(folder, tactic=tactic, library=library)) for library in ("ours", "peft"))
    mine, other = count(ours.model), count(theirs.model)
    if tactic == "prefix":  # peft sends the prefix through the MLP as a whole, [l, D] -> h -> 2 L D, as we do
        assert mine[0] == other[0]
    assert mine == other
    if tactic in ("lora", "ia3"):
        torch.testing.assert_close(logits(ours, x), logits(theirs, x), rtol=1e-4, atol=1e-4)
    before = logits(theirs, x).clone()
    disturb(theirs.model)
    assert (logits(theirs, x) - before).abs().max() > 1e-3  # what trains is what is read


def test_lora_of_peft_with_the_same_weights(folder: Path, x: Tensor) -> None:
    ours, theirs = (build(small(folder, library=library)) for library in ("ours", "peft"))
    disturb(ours.model)
    layers = dict(tuned_layers(ours.model.model))
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    with torch.no_grad():
        for path, layer in layers.items():
            adapter: Any = layer.adapters["default"]
            if path == "head":
                head: Any = theirs.model.model.get_submodule("base_model.model.classifier.modules_to_save.default")
                head.load_state_dict(adapter.copy.state_dict())
                continue
            number, leaf = path.split(".")[2], names[path.rpartition(".")[2]]
            other: Any = theirs.model.model.get_submodule(
                f"base_model.model.bert.encoder.layer.{number}.attention.self.{leaf}"
            )
            other.lora_A["default"].weight.copy_(adapter.A)
            other.lora_B["default"].weight.copy_(adapter.B)
    torch.testing.assert_close(logits(ours, x), logits(theirs, x), rtol=1e-4, atol=1e-4)


def test_head_and_adapters_come_from_the_seed_alone(folder: Path) -> None:
    """E0-61: whatever was drawn before, two builds are equal; another seed gives another head, and the same base."""
    first = build(small(folder))
    torch.rand(100)
    again, other = build(small(folder)), build(small(folder, seed=4))
    for name, parameter in first.trained().items():
        assert torch.equal(parameter, again.trained()[name]), name
    assert any(not torch.equal(p, other.trained()[name]) for name, p in first.trained().items())
    assert first.base == again.base == other.base != build(small(folder, base=str(folder / "other"))).base


def test_two_runs_in_one_process_do_not_meet(folder: Path) -> None:
    """E0-64: the original wrapped one global model twice."""
    one, two = build(small(folder)), build(small(folder, tactic="adapter"))
    assert {len(layer.adapters) for built in (one, two) for _, layer in tuned_layers(built.model.model)} == {1}


def test_only_what_trains_moves(folder: Path) -> None:
    for tactic in ("head", "lora", "prompt", "prefix"):
        model = build(small(folder, tactic=tactic)).model
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert {name.rpartition("model.")[2].replace(".base.", ".") for name in frozen} >= {
            f"encoder.layers.{i}.mlp.fc1.weight" for i in range(DEPTH)
        }


@pytest.mark.parametrize("pool", ["own", "cls", "mean"])
@pytest.mark.parametrize("library", ["ours", "peft"])
def test_pooling(folder: Path, x: Tensor, pool: str, library: str) -> None:
    built = build(small(folder, pool=pool, library=library))
    assert logits(built, x).shape == (6, 18)
    if library == "ours":
        assert built.model.model.config.pool == ("mean" if pool == "mean" else "cls")
    torch.testing.assert_close(logits(built, x), logits(build(small(folder, pool=pool)), x), rtol=1e-4, atol=1e-4)


def disturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


# ---- files -------------------------------------------------------------------------------------------------------


def save_run(built: Built, config: Config, path: Path) -> None:
    checkpoint.save(path, model=built.trained(), config=config.model_dump(), extra={"facts": built.facts()})


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> tuple[Config, Built, Path]:
    config = small(folder, output=str(tmp_path))
    built = build(config)
    disturb(built.model)
    save_run(built, config, path := tmp_path / "best.safetensors")
    return config, built, path


@pytest.mark.parametrize("tactic", TACTICS)
def test_saved_and_opened_it_answers_the_same(folder: Path, tmp_path: Path, tactic: str, x: Tensor) -> None:
    config = small(folder, tactic=tactic)
    built = build(config)
    disturb(built.model)
    save_run(built, config, tmp_path / "best.safetensors")
    found, again = open_run(tmp_path)
    assert found == config
    assert torch.equal(logits(again, x), logits(built, x))
    assert not again.model.training


def test_through_peft_too(folder: Path, tmp_path: Path, x: Tensor) -> None:
    config = small(folder, tactic="prefix", library="peft")
    built = build(config)
    disturb(built.model)
    save_run(built, config, tmp_path / "best.safetensors")
    assert torch.equal(logits(open_run(tmp_path)[1], x), logits(built, x))


def test_a_file_holds_what_was_trained_and_no_base(saved: tuple[Config, Built, Path]) -> None:
    path = saved[2]
    tensors = safetensors.torch.load_file(path)
    held = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("model"))
    assert held == trained_count("lora")


def test_an_empty_partial_or_larger_file_is_refused(folder: Path, saved: tuple[Config, Built, Path]) -> None:
    """E0-81: the original fills every gap from the fresh model and says that all keys matched."""
    config, built, path = saved
    named = dict(built.trained())
    few = {name: p for name, p in named.items() if "q_proj" in name}

    class Pretended(Built):
        def trained(self) -> nn.ParameterDict:
            return nn.ParameterDict(self.given)  # type: ignore[attr-defined]

    for given, words in (
        ({}, "is in the model but not in the file"),
        (few, "and 7 more"),
        (named | {"extra": nn.Parameter(torch.zeros(2))}, "extra is in the file but not in the model"),
    ):
        pretended = copy.copy(built)
        object.__setattr__(pretended, "__class__", Pretended)
        object.__setattr__(pretended, "given", given)
        save_run(pretended, config, path)
        fresh = build(config)
        before = [p.clone() for p in fresh.trained().values()]
        with pytest.raises(ValueError, match=words):
            fill(fresh, checkpoint.load(path))
        assert all(torch.equal(a, b) for a, b in zip(before, fresh.trained().values(), strict=True))


def test_another_base_is_refused(folder: Path, saved: tuple[Config, Built, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"was trained on .*base, and this base has other weights: give the one it was"
    ):
        open_run(saved[2], base=str(folder / "other"))


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 5000, -1])
def test_a_truncated_file_is_refused(saved: tuple[Config, Built, Path], keep: int) -> None:
    path = saved[2]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"best\.safetensors (is empty|.* is truncated|is damaged)"):
        open_run(path)


def test_foreign_files_are_refused(saved: tuple[Config, Built, Path], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no checkpoint of this course"):
        open_run(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"looks like a file of torch\.save"):
        open_run(path)


def test_a_missing_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no run .*: train one with python -m course_utils\.news\.train"
    ):
        open_run(tmp_path / "output" / "lora")


# ---- bases -------------------------------------------------------------------------------------------------------


def test_bases_that_are_not_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or directory"):
        build(small(folder, base=str(tmp_path / "nowhere")))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(OSError, match=r"'google-bert/bert-base-chinese' is no local path and could not be fetched"):
        build(small(folder, base="google-bert/bert-base-chinese"))


@pytest.mark.parametrize("tactic", ["lora", "prompt", "prefix"])
@pytest.mark.parametrize("family", ["DistilBert", "Electra"])
def test_relatives_of_bert_are_bases(folder: Path, tmp_path: Path, family: str, tactic: str) -> None:
    """A small ELECTRA embeds in fewer numbers than its width, and a prompt is as wide as an embedding."""
    rows = load_text(folder / "base").config.vocab_size
    electra = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "embedding_size": 16}
    sizes = electra if family == "Electra" else {"dim": 32, "n_layers": 1, "n_heads": 2}
    config = getattr(transformers, family + "Config")(vocab_size=rows, **sizes)
    getattr(transformers, family + "ForMaskedLM")(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes((folder / "base" / "vocab.txt").read_bytes())
    built = build(small(folder, base=str(tmp_path), tactic=tactic))
    data = encode(load_titles("train")[:5], built.tokenizer, built.pad)
    found = built.model(data.batch(range(5))[0])
    found.sum().backward()
    assert found.shape == (5, 18)
    assert all(p.grad is not None for p in built.trained().values())


def test_a_base_without_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / "base" / name).read_bytes())
    """transformers makes a tokenizer of five special tokens then, and says nothing."""
    with pytest.raises(
        ValueError, match=r"tokenizer of .* has 5 pieces, and the model 2,\d+ rows .*: put the tokenizer\.json"
    ):
        build(small(folder, base=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OSError, match=r"no tokenizer was found for .*: put the tokenizer\.json or the vocab\.txt"):
        build(small(folder, base=str(tmp_path)))


def test_a_truncated_base(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "base").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 2000 if path.suffix == ".safetensors" else None])
    with pytest.raises(ValueError, match=r"model\.safetensors .* cannot be read as a safetensors file"):
        build(small(folder, base=str(tmp_path)))


def test_targets_that_fit_nothing(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"targets: 'q_porj' fits no layer\. Names like it: .*q_proj"):
        build(small(folder, targets=("q_porj",)))
    with pytest.raises(ValueError, match=r"targets: 'layers\.0\.\*' cannot go to peft: choose among q_proj, k_proj"):
        build(small(folder, targets=("layers.0.*",), library="peft"))
