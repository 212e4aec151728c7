"""The same Transformer trained with PyTorch: `torch.nn.Transformer`, fused Adam.

Started by `train_vs_pytorch.py`; needs only torch and NumPy, so it may run on an
interpreter of its own. What is equal: sizes, tied embedding, pre- or post-norm,
label smoothing, Adam. PyTorch's attention has biases, ours has none: under 0.1% of the
work. `nn.Transformer` also drops attention weights and inside its feed-forward layers;
`--dropout paper` takes that out, and lets PyTorch take its fused attention.
The batches lie in memory as tensors, so PyTorch pays nothing for input.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from blocks import limit_to_cores, peak_memory_mb, serve

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit(
        f"PyTorch is not installed for {sys.executable}.\n"
        "It is no dependency of this project. Install it there (pip install torch), "
        "or name an interpreter that has it: --pytorch-python PATH."
    )

BOS_ID = 1
FORBIDDEN = float("-inf")
Batch = dict[str, Any]


class TorchTransformer(nn.Module):
    """`nn.Transformer` with one embedding for source, target and output."""

    def __init__(self, sizes: dict[str, Any], *, is_as_in_paper: bool) -> None:
        """Builds it.

        Args:
            sizes: The fields of `models.TransformerConfig`.
            is_as_in_paper: Whether to drop embeddings and residuals only.
        """
        super().__init__()
        dim = sizes["model_dim"]
        self.dim, self.num_heads = dim, sizes["num_heads"]
        self.embedding = nn.Embedding(sizes["vocab_size"], dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.dropout = nn.Dropout(sizes["dropout_rate"])
        self.transformer = nn.Transformer(
            d_model=dim,
            nhead=sizes["num_heads"],
            num_encoder_layers=sizes["num_encoder_layers"],
            num_decoder_layers=sizes["num_decoder_layers"],
            dim_feedforward=sizes["ffn_dim"],
            dropout=sizes["dropout_rate"],
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=sizes["norm"] == "pre",
        )
        for module in self.modules() if is_as_in_paper else ():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            elif hasattr(module, "linear1"):
                module.dropout = nn.Identity()
        rates = 10_000.0 ** -(torch.arange(dim // 2) / (dim // 2 - 1))
        angles = torch.arange(4096)[:, None] * rates
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
        self.register_buffer("sinusoids", table)

    def forward(self, batch: Batch) -> Any:
        """Returns the logits [B, T, V]."""
        output = self.transformer(
            self._embed(batch["source"], batch["source_positions"]),
            self._embed(batch["inputs"], batch["target_positions"]),
            src_mask=batch["source_mask"],
            tgt_mask=batch["target_mask"],
            memory_mask=batch["cross_mask"],
        )
        return nn.functional.linear(output, self.embedding.weight)

    def _embed(self, ids: Any, positions: Any) -> Any:
        x = self.embedding(ids) * math.sqrt(self.dim)
        return self.dropout(x + self.sinusoids[positions])


def to_tensors(rows: dict[str, np.ndarray], num_heads: int) -> Batch:
    """Returns what `TorchTransformer` takes, masks included, of rows with segments.

    Masks are float and [B * H, Q, S], as `nn.MultiheadAttention` needs them for one
    mask a row. Padding may see everything, since a row of -inf only would be NaN.
    """
    arrays = {name: torch.from_numpy(rows[name].astype(np.int64)) for name in rows}
    source, target = arrays["source_segments"], arrays["target_segments"]
    length = target.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)

    def mask(queries: Any, keys: Any, also: Any = False) -> Any:
        other = (queries[:, :, None] != keys[:, None, :]) | also
        other &= (queries > 0)[:, :, None]
        floats = torch.zeros(other.shape).masked_fill_(other, FORBIDDEN)
        return floats.repeat_interleave(num_heads, dim=0)

    shifted = nn.functional.pad(arrays["target"][:, :-1], (1, 0))
    arrays["inputs"] = torch.where(arrays["target_positions"] == 0, BOS_ID, shifted)
    arrays["source_mask"] = mask(source, source)
    arrays["target_mask"] = mask(target, target, future)
    arrays["cross_mask"] = mask(target, source)
    # Padding has the target 0, which the loss ignores.
    arrays["target"] = torch.where(target > 0, arrays["target"], 0)
    return arrays


def bucketed(rows: dict[str, np.ndarray], tokens_per_batch: int) -> Iterator[Any]:
    """Yields the pairs of packed rows as padded batches of similar lengths.

    What fairseq and OpenNMT-py do: sort by length, cut at a number of padded tokens.
    """
    pairs = []
    for row in range(len(rows["source"])):
        of = [rows[f"{side}_segments"][row] for side in ("source", "target")]
        for segment in range(1, int(of[0].max()) + 1):
            source = rows["source"][row][of[0] == segment]
            pairs.append((source, rows["target"][row][of[1] == segment]))
    pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])), reverse=True)
    begin = 0
    while begin < len(pairs):
        width = max(map(len, pairs[begin]))
        end = begin + max(1, tokens_per_batch // width)
        yield padded(pairs[begin:end])
        begin = end


def padded(pairs: list[Any]) -> dict[str, np.ndarray]:
    """Returns one pair a row, padded to the longest, in the form of packed rows."""
    rows: dict[str, np.ndarray] = {}
    for index, side in enumerate(("source", "target")):
        lengths = np.array([len(pair[index]) for pair in pairs])
        places = np.arange(lengths.max())[None, :]
        is_used = places < lengths[:, None]
        tokens = np.zeros(is_used.shape, np.int64)
        tokens[is_used] = np.concatenate([pair[index] for pair in pairs])
        rows[side] = tokens
        rows[f"{side}_segments"] = is_used.astype(np.int64)
        rows[f"{side}_positions"] = np.broadcast_to(places, is_used.shape) * is_used
    return rows


class PyTorchTraining:
    """A PyTorch model in training, and where it is in its data."""

    def __init__(self, plan: dict[str, Any], batches: dict[str, np.ndarray]) -> None:
        """Builds model and optimizer from the plan of `train_vs_pytorch.py`."""
        torch.manual_seed(1)
        self._plan, self._batches = plan, batches
        self.model = TorchTransformer(
            plan["sizes"], is_as_in_paper=plan["dropout"] == "paper"
        )
        self.model.train()
        self._call = torch.compile(self.model) if plan["compile"] else self.model
        adam = plan["adam"]
        self._optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=adam["peak_learning_rate"],
            betas=(adam["beta_1"], adam["beta_2"]),
            eps=adam["epsilon"],
            fused=True,
        )
        self._step = 0
        self._updates = 0

    def run(self, num_steps: int) -> dict[str, Any]:
        """Trains on the rows of the next `num_steps` packed batches."""
        batches = list(self._next_batches(num_steps))
        begun = time.perf_counter()
        loss = math.nan
        for batch in batches:
            loss = self._update(batch)
        secs = time.perf_counter() - begun
        names = ("source_segments", "target_segments")
        tokens = sum(int((batch[n] > 0).sum()) for batch in batches for n in names)
        return {
            "secs": secs,
            "tokens": tokens,
            "steps": len(batches),
            "loss": loss,
            "peak_mb": peak_memory_mb(),
        }

    def _next_batches(self, num_steps: int) -> Iterator[Batch]:
        begin, end = self._step, self._step + num_steps
        self._step = end
        heads = self._plan["sizes"]["num_heads"]
        if self._plan["batches"] == "packed":
            for step in range(begin, end):
                rows = {name: array[step] for name, array in self._batches.items()}
                yield to_tensors(rows, heads)
            return
        pool = {name: np.concatenate(a[begin:end]) for name, a in self._batches.items()}
        tokens = self._batches["target"][0].size
        made = [to_tensors(rows, heads) for rows in bucketed(pool, tokens)]
        for index in np.random.default_rng(begin).permutation(len(made)):
            yield made[index]

    def _update(self, batch: Batch) -> float:
        adam = self._plan["adam"]
        self._updates += 1
        warm = min(1.0, self._updates / adam["warmup_steps"])
        for group in self._optimizer.param_groups:
            group["lr"] = adam["peak_learning_rate"] * warm
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._call(batch)
        target = batch["target"].flatten()
        summed = nn.functional.cross_entropy(
            logits.flatten(0, 1),
            target,
            ignore_index=0,
            label_smoothing=self._plan["sizes"]["label_smoothing"],
            reduction="sum",
        )
        loss = summed / (target != 0).sum()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


def main() -> None:
    """Serves blocks of training to `train_vs_pytorch.py`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", required=True)
    args = parser.parse_args()
    with open(args.plan, encoding="utf-8") as file:
        plan = json.load(file)
    if plan["threads"]:
        limit_to_cores(plan["threads"])
        torch.set_num_threads(plan["threads"])
    batches = dict(np.load(plan["export"]))
    training = PyTorchTraining(plan, batches)
    parameters = sum(p.numel() for p in training.model.parameters())
    about = {
        "version": f"PyTorch {torch.__version__}, Python {platform.python_version()}",
        "num_parameters": parameters,
    }
    serve(about, training.run)


if __name__ == "__main__":
    main()
