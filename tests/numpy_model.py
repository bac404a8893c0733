"""The MiniCPM decoder in float64 NumPy, forward and backward written out from the formulas: what the real model must
equal.

Shares no code with `pipelines.train.network.model`, and takes other ways where there are any: documents are told apart
by a loop over their starts, rotary positions turn complex numbers, each head is computed by itself, and every
derivative is by hand.

Legend: B rows, T tokens, D width, H query heads, G key/value heads, K head width, F feed-forward width, V vocabulary.

    x₀ = scale_emb · E[token]                     RMSNorm(x) = g · x / √(mean(x²) + ε)
    x ← x + s · W_o · attention(RMSNorm(x))       s = scale_depth / √layers
    x ← x + s · W_down (silu(W_gate n) · W_up n)  n = RMSNorm(x)
    logits = E · RMSNorm(x) / m                   m = D / dim_model_base

Source: MiniCPM (arXiv 2404.06395) Table 7; Su et al. (arXiv 2104.09864) eq. 34 for rotary positions, in Llama's layout:
component k turns with component k + K/2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.train.network.architecture import ModelConfig

Array = NDArray[np.float64]
Weights = dict[str, Array]


class NumpyModel:
    """One architecture with its weights, named as the real model's parameters are."""

    def __init__(self, config: ModelConfig, weights: dict[str, Any]):
        self.c = config
        self.w: Weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.scale = config.scale_depth / math.sqrt(config.layers)
        self.m = config.d_model / config.dim_model_base

    def logits(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> Array:
        """(B, T) ids and positions → (B, T, V)."""
        return np.stack([self._row(*row)[0] for row in zip(tokens, positions, strict=True)])

    def gradients(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], targets: NDArray[np.int64], counted: Array
    ) -> tuple[float, Weights]:
        """Σ counted · cross-entropy in nats, and its derivative by every weight."""
        total, grads = 0.0, {name: np.zeros_like(value) for name, value in self.w.items()}
        for b in range(len(tokens)):
            logits, tape = self._row(tokens[b], positions[b])
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            at = np.arange(len(targets[b])), targets[b]
            total -= float((counted[b] * np.log(p[at])).sum())
            p[at] -= 1
            self._row_backward(tokens[b], tape, p * counted[b][:, None], grads)
        return total, grads

    def _row(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> tuple[Array, dict[str, Any]]:
        w, s = self.w, self.scale
        tape: dict[str, Any] = {"turn": self._turns(positions), "visible": self._visible(positions)}
        x = self.c.scale_emb * w["embed_tokens.weight"][tokens]
        for i in range(self.c.layers):
            name = f"layers.{i}."
            n, tape[name + "norm1"] = self._norm(x, w[name + "input_layernorm.weight"])
            a, tape[name + "attention"] = self._attention(n, w[name + "self_attn.qkv_proj.weight"], tape)
            x = x + s * (a @ w[name + "self_attn.o_proj.weight"].T)
            n2, tape[name + "norm2"] = self._norm(x, w[name + "post_attention_layernorm.weight"])
            gate, up = np.split(n2 @ w[name + "mlp.gate_up_proj.weight"].T, 2, axis=1)
            x = x + s * ((gate * _sigmoid(gate) * up) @ w[name + "mlp.down_proj.weight"].T)
            tape[name] = n, a, n2, gate, up
        h, tape["norm"] = self._norm(x, w["norm.weight"])
        tape["h"] = h / self.m
        return tape["h"] @ w["embed_tokens.weight"].T, tape

    def _row_backward(self, tokens: NDArray[np.int64], tape: dict[str, Any], d_logits: Array, grads: Weights) -> None:
        w, s = self.w, self.scale
        grads["embed_tokens.weight"] += d_logits.T @ tape["h"]
        d_h = d_logits @ w["embed_tokens.weight"] / self.m
        dx = self._norm_backward(d_h, "norm.weight", tape["norm"], grads)
        for i in reversed(range(self.c.layers)):
            name = f"layers.{i}."
            n, a, n2, gate, up = tape[name]
            sig = _sigmoid(gate)
            dy = s * dx
            grads[name + "mlp.down_proj.weight"] += dy.T @ (gate * sig * up)
            d_act = dy @ w[name + "mlp.down_proj.weight"]
            d_silu = sig * (1 + gate * (1 - sig))  # derivative of z·σ(z)
            d_gate_up = np.concatenate([d_act * up * d_silu, d_act * gate * sig], axis=1)
            grads[name + "mlp.gate_up_proj.weight"] += d_gate_up.T @ n2
            d_n2 = d_gate_up @ w[name + "mlp.gate_up_proj.weight"]
            dx = dx + self._norm_backward(d_n2, name + "post_attention_layernorm.weight", tape[name + "norm2"], grads)
            dy = s * dx
            grads[name + "self_attn.o_proj.weight"] += dy.T @ a
            d_a = dy @ w[name + "self_attn.o_proj.weight"]
            d_qkv = self._attention_backward(d_a, tape[name + "attention"], tape)
            grads[name + "self_attn.qkv_proj.weight"] += d_qkv.T @ n
            d_n = d_qkv @ w[name + "self_attn.qkv_proj.weight"]
            dx = dx + self._norm_backward(d_n, name + "input_layernorm.weight", tape[name + "norm1"], grads)
        np.add.at(grads["embed_tokens.weight"], tokens, self.c.scale_emb * dx)

    def _norm(self, x: Array, gain: Array) -> tuple[Array, tuple[Array, Array]]:
        r = 1 / np.sqrt((x**2).mean(axis=1, keepdims=True) + self.c.norm_eps)
        return gain * x * r, (x, r)

    def _norm_backward(self, dy: Array, name: str, tape: tuple[Array, Array], grads: Weights) -> Array:
        x, r = tape
        grads[name] += (dy * x * r).sum(axis=0)
        d = dy * self.w[name]
        return d * r - x * r**3 * (d * x).mean(axis=1, keepdims=True)  # r depends on x by −r³x/D

    def _turns(self, positions: NDArray[np.int64]) -> NDArray[np.complex128]:
        """(T, K/2): e^(i·position·base^(−2k/K))."""
        K = self.c.d_model // self.c.heads
        return np.exp(1j * positions[:, None] * self.c.rope_base ** (-2.0 * np.arange(K // 2) / K))

    def _visible(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(T, T): what query t may look at: from its document's (without masking: the row's) first token to itself."""
        visible = np.zeros((len(positions), len(positions)), bool)
        start = 0
        for t, position in enumerate(positions):
            if position == 0 and self.c.document_masking:
                start = t
            visible[t, start : t + 1] = True
        return visible

    def _attention(self, n: Array, qkv: Array, tape: dict[str, Any]) -> tuple[Array, list[Any]]:
        D, H, G = self.c.d_model, self.c.heads, self.c.kv_heads
        K = D // H
        q, k, v = np.split(n @ qkv.T, [D, D + G * K], axis=1)
        out, heads = np.empty_like(q), []
        for h in range(H):
            mine, shared = slice(h * K, (h + 1) * K), slice(h * G // H * K, (h * G // H + 1) * K)
            q_h, k_h = _turn(q[:, mine], tape["turn"]), _turn(k[:, shared], tape["turn"])
            scores = np.where(tape["visible"], q_h @ k_h.T / math.sqrt(K), -np.inf)
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            out[:, mine] = p @ v[:, shared]
            heads.append((mine, shared, q_h, k_h, v[:, shared], p))
        return out, heads

    def _attention_backward(self, d_out: Array, heads: list[Any], tape: dict[str, Any]) -> Array:
        D, G, K = self.c.d_model, self.c.kv_heads, self.c.d_model // self.c.heads
        T, back = len(d_out), tape["turn"].conj()
        d_q, d_k, d_v = np.zeros((T, D)), np.zeros((T, G * K)), np.zeros((T, G * K))
        for mine, shared, q_h, k_h, v_h, p in heads:
            d_p = d_out[:, mine] @ v_h.T
            d_scores = p * (d_p - (p * d_p).sum(axis=1, keepdims=True)) / math.sqrt(K)
            d_q[:, mine] = _turn(d_scores @ k_h, back)
            d_k[:, shared] += _turn(d_scores.T @ q_h, back)
            d_v[:, shared] += p.T @ d_out[:, mine]
        return np.concatenate([d_q, d_k, d_v], axis=1)


def _turn(x: Array, turns: NDArray[np.complex128]) -> Array:
    """Multiply component k + i · component (k + K/2) by its turn."""
    first, second = np.split(x, 2, axis=1)
    z = (first + 1j * second) * turns
    return np.concatenate([z.real, z.imag], axis=1)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
