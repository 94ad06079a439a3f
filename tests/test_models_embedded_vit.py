"""The embedded ViT: the file that was made, what it can do, the drawings it was trained on, and its making."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from course_utils.data.articles import FABRICS, OUTLINES, Articles
from course_utils.models import embedded_vit
from course_utils.models.embedded_vit import STATISTICS, load_embedded_vit
from tools import make_vit

CARD = Path(str(embedded_vit.VIT)).with_name("vit.md")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn():
    """300 new drawings, normalised, with the number of their kind."""
    images, outline, fabric = make_vit.batch(Articles(), 300, torch.Generator().manual_seed(5))
    return images, outline * FABRICS + fabric


def test_the_file_is_small_whole_and_described():
    content, model = embedded_vit.VIT.read_bytes(), load_embedded_vit()
    assert len(content) < 3e6
    assert hashlib.sha256(content).hexdigest() == embedded_vit.VIT_SHA256
    card = CARD.read_text(encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for fact in (embedded_vit.VIT_SHA256, f"{len(content):,}", f"{parameters:,}"):
        assert fact in card, f"the card does not say {fact}"


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"", lambda c: c[:9000] + b"!" + c[9001:]])
def test_a_damaged_file_is_refused(change, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    damaged = tmp_path / "vit.safetensors"
    damaged.write_bytes(change(embedded_vit.VIT.read_bytes()))
    monkeypatch.setattr(embedded_vit, "VIT", damaged)
    with pytest.raises(ValueError, match=r"has [\d,]+ bytes and SHA-256 .*: install course_utils again"):
        load_embedded_vit()


def test_it_tells_a_thousand_kinds_apart_and_knows_the_two_factors(drawn):
    images, kinds = drawn
    with torch.inference_mode():
        answers = load_embedded_vit()(images).argmax(1)
    assert (answers == kinds).float().mean() > 0.1, "1 in 1000 is chance"
    assert (answers // FABRICS == kinds // FABRICS).float().mean() > 0.4
    assert (answers % FABRICS == kinds % FABRICS).float().mean() > 0.25


def test_a_fresh_head_or_none():
    torch.manual_seed(3)
    ten = load_embedded_vit(10)
    assert ten.head.out_features == 10
    x = torch.randn(2, 1, 28, 28)
    bare = load_embedded_vit(0).eval()
    with torch.inference_mode():
        features = bare(x)
        assert features.shape == (2, 128)
        torch.testing.assert_close(ten.eval().head(features), ten(x))
    assert load_embedded_vit(10, image_size=56).config.patches == 64


def test_drawings_are_symmetric_before_they_are_tilted_and_differ_by_kind():
    articles = Articles()
    g = torch.Generator().manual_seed(0)
    outline = torch.zeros(400, dtype=torch.long)
    images = articles.draw(outline, torch.full_like(outline, FABRICS - 1), g)  # plain
    assert images.shape == (400, 1, 28, 28)
    assert 0 <= images.min() < images.max() <= 1
    mean = images.mean((0, 1))  # places and tilts cancel
    assert (mean - mean.flip(1)).abs().mean() < 0.15 * mean.std()
    assert (mean - mean.flip(0)).abs().mean() > (mean - mean.flip(1)).abs().mean()
    again = articles.draw(outline, outline, torch.Generator().manual_seed(7))
    assert torch.equal(again, articles.draw(outline, outline, torch.Generator().manual_seed(7)))
    means = torch.stack([articles.draw(outline[:60] + o, outline[:60] + 24, g).mean((0, 1)) for o in range(OUTLINES)])
    distances = torch.cdist(means.flatten(1), means.flatten(1)) + torch.eye(OUTLINES) * 9
    assert distances.min() > 0.3


def test_the_two_heads_are_one_of_a_thousand_rows():
    head = torch.nn.Linear(8, OUTLINES + FABRICS)
    rows = make_vit.thousand_rows(head)
    x = torch.randn(5, 8)
    by_outline, by_fabric = head(x).split((OUTLINES, FABRICS), dim=1)
    kinds = x @ rows["head.weight"].T + rows["head.bias"]
    torch.testing.assert_close(kinds, (by_outline[:, :, None] + by_fabric[:, None]).flatten(1))


@pytest.mark.slow
def test_making_it_twice_gives_the_same_weights_and_learns():
    losses = []
    models = []
    for _ in range(2):
        model, head = make_vit.pretrain(12)
        models.append({**model.state_dict(), **make_vit.thousand_rows(head)})
        losses.append(make_vit.accuracies(model, head, 200))
    assert losses[0] == losses[1]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_its_statistics_suit_the_drawings_and_the_clothes(drawn):
    assert STATISTICS == ((0.3,), (0.35,))
    assert abs(drawn[0].mean()) < 0.5
    assert 0.5 < drawn[0].std() < 1.5
