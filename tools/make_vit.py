"""Make the embedded Vision Transformer: pretrain a small one on a thousand kinds of clothes that nobody ever made.

    python -m tools.make_vit            # about four minutes on one core; always on one thread

**The images** are drawn, 28 x 28 grey pixels: see ``course_utils/data/articles.py``. No image of any data set is used.

**The head** has 1,000 outputs, one for each pair. It is trained as two heads, for 40 outlines and 25 fabrics, whose
logits are added: with a few minutes to spend each image then teaches something about 64 of the thousand kinds. The sum
of two linear layers is one linear layer of 1,000 rows, and that is what is stored.

**The optimizer** is Muon for the encoder's matrices (torch.optim.Muon; Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon) and AdamW for the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from course_utils.data.articles import FABRICS, OUTLINES, SIDE, Articles
from course_utils.files import atomic_write
from course_utils.models import ViT, ViTConfig, embedded_vit
from course_utils.models.encoder import initialise
from course_utils.training import warmup_cosine

STEPS, BATCH, MUON_LR, ADAMW_LR = 1200, 64, 0.02, 2e-3
CONFIG = ViTConfig(
    width=128, depth=4, heads=4, mlp_ratio=2.0, image_size=SIDE, patch_size=7, channels=1, num_classes=0,
    pool="mean", class_token=False,
)  # fmt: skip


def batch(articles: Articles, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images normalised as the model will always see them, with the numbers of their outline and fabric."""
    kind = torch.randint(OUTLINES * FABRICS, (size,), generator=generator)
    outline, fabric = kind // FABRICS, kind % FABRICS
    (mean,), (std,) = embedded_vit.STATISTICS
    return (articles.draw(outline, fabric, generator) - mean) / std, outline, fabric


def pretrain(steps: int, seed: int = 0) -> tuple[ViT, nn.Linear]:
    """The model without a head, and the two heads in one layer: 40 rows for outlines, then 25 for fabrics."""
    torch.manual_seed(seed)
    articles, generator = Articles(), torch.Generator().manual_seed(seed + 1)
    model, head = ViT(CONFIG), nn.Linear(CONFIG.width, OUTLINES + FABRICS)
    model.apply(lambda module: initialise(module, std=0.08))  # 1 / sqrt(width): at 0.02 the start takes longer
    initialise(head)
    matrices = [p for name, p in model.encoder.named_parameters() if p.dim() == 2]
    own = {id(p) for p in matrices}
    others = [p for p in [*model.parameters(), *head.parameters()] if id(p) not in own]
    optimizers = {
        torch.optim.Muon(matrices, weight_decay=0.05): MUON_LR,
        torch.optim.AdamW(others, weight_decay=0.05): ADAMW_LR,
    }
    schedule = warmup_cosine(steps=steps, warmup=steps // 20)
    for step in (bar := trange(steps, unit="step")):
        images, outline, fabric = batch(articles, BATCH, generator)
        by_outline, by_fabric = head(model(images)).split((OUTLINES, FABRICS), dim=1)
        loss = F.cross_entropy(by_outline, outline) + F.cross_entropy(by_fabric, fabric)
        for optimizer, lr in optimizers.items():
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return model.eval(), head


def thousand_rows(head: nn.Linear) -> dict[str, Tensor]:
    """The head for all pairs: row ``25 * outline + fabric`` is the sum of the two rows."""
    parts = {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
    return {name: (rows[:OUTLINES, None] + rows[None, OUTLINES:]).flatten(0, 1) for name, rows in parts.items()}


@torch.inference_mode()
def accuracies(model: ViT, head: nn.Linear, images: int = 2000) -> tuple[float, float, float]:
    """On new images: of the kind (1 in 1000 by chance), of the outline (1 in 40) and of the fabric (1 in 25)."""
    x, outline, fabric = batch(Articles(), images, torch.Generator().manual_seed(99))
    by_outline, by_fabric = head(model(x)).split((OUTLINES, FABRICS), dim=1)
    right = by_outline.argmax(1) == outline, by_fabric.argmax(1) == fabric
    return tuple(hits.float().mean().item() for hits in (right[0] & right[1], *right))


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the embedded Vision Transformer.")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of 64 images")
    parser.add_argument("--to", type=Path, default=Path(str(embedded_vit.VIT)), help="the file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)  # with two, sums are split in another way, and the last digits differ
    model, head = pretrain(options.steps)
    print("accuracy on new images: kind {:.1%}, outline {:.1%}, fabric {:.1%}".format(*accuracies(model, head)))
    weights = {name: tensor.to(torch.float16) for name, tensor in {**model.state_dict(), **thousand_rows(head)}.items()}
    content = safetensors.torch.save(weights, {"vit": json.dumps({"heads": CONFIG.heads})})
    with atomic_write(options.to) as file:
        file.write(content)
    print(f"{options.to.name}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
