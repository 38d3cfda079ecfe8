"""TTT-Linear: the state of a row is a linear model that learns as it reads, by a gradient step for each mini-batch of tokens
(Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv:2407.04620, sections 2.3 to
2.7).

Of each head, with k, v and q of a token, in rows, and W the weights of its model: f(k; W) = k + LN(k W), whose LN is the
head's own, learned as all weights are; l(W; k, v) = |f(k; W) - v|^2. In a mini-batch every gradient is that at the weights W'
behind the last one, and W_t = W' - sum of eta_s dl(W'; k_s, v_s) / dW' over its tokens s up to t, eta being a sigmoid of a
product with the token, times `rate`; the result is f(q_t; W_t). No W_t is made: the dual form (section 2.5) has q_t W_t as
q_t W' - sum of eta_s (q_t k_s) g_s, g_s being the gradient of l by k_s W'. A document begins with W_0, which is learned.

Differs from the paper: l is half the mean over a head's numbers and not their sum, as in the authors' code; W_0 begins as the
identity and not as noise; no positions are turned in q and k, no convolution stands in front, and no gate or norm behind, as
in the code's layers; a document's mini-batches count from its own first token, wherever in a row that is.

Letters as in lm/shape.py; a state is two matrices E x E a head. A piece is n tokens of each row, no more than a mini-batch
has.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from kernels.projections import projections
from lm.context import Context
from lm.mixers.base import Mixer
from lm.shape import Shape


class FastWeights(NamedTuple):
    """What a row has learned: W' at the start of its mini-batch, and the sum of its gradients since then; weights W' - sum."""

    weights_BHEE: Tensor
    sum_BHEE: Tensor


class Norm(NamedTuple):
    """The LN of f: y = scale (z - mean) / deviation + shift, over E."""

    scale_HE: Tensor
    shift_HE: Tensor
    eps: float

    def standard(self, z_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        """((z - mean) / deviation, 1 / deviation)."""
        centred_BHTE = z_BHTE - z_BHTE.mean(-1, keepdim=True)
        root_BHT1 = (centred_BHTE.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return centred_BHTE * root_BHT1, root_BHT1

    def scaled(self, standard_BHTE: Tensor) -> Tensor:
        return standard_BHTE * self.scale_HE[:, None] + self.shift_HE[:, None]

    def gradient(self, z_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        """g_BHTE: of |k + LN(z) - v|^2 / 2E by z."""
        standard_BHTE, root_BHT1 = self.standard(z_BHTE)
        off_BHTE = (k_BHTE + self.scaled(standard_BHTE) - v_BHTE) / z_BHTE.shape[-1]
        off_BHTE = off_BHTE * self.scale_HE[:, None]
        along_BHT1 = (off_BHTE * standard_BHTE).mean(-1, keepdim=True)
        return root_BHT1 * (off_BHTE - off_BHTE.mean(-1, keepdim=True) - standard_BHTE * along_BHT1)


class Places(NamedTuple):
    """Where the tokens of a piece are: in a mini-batch that the piece before began (or that begins with the piece), else in one
    that their document began within the piece: its next one, or its first."""

    begins_Bn: Tensor  # the first token of their mini-batch, counted from that of the piece
    later_Bn: Tensor  # another mini-batch of the document that the piece begins in
    fresh_Bn: Tensor  # the first mini-batch of a document that begins within the piece

    @classmethod
    def of(cls, places_Bn: Tensor, mini_batch: int) -> "Places":
        """places_Bn: of the tokens in their documents."""
        own_n = torch.arange(places_Bn.shape[1], device=places_Bn.device)
        begins_Bn, fresh_Bn = own_n - places_Bn % mini_batch, places_Bn < own_n
        return cls(begins_Bn, (begins_Bn > 0) & ~fresh_Bn, fresh_Bn)

    def last(self, counts_B: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(which tokens are in the mini-batch of the row's last one, and not behind it; whether that is a later one; a fresh
        one). counts_B: how many tokens the row has, at least 1."""
        end_B1 = torch.full_like(self.begins_Bn[:, :1], self.begins_Bn.shape[1] - 1)
        if counts_B is not None:
            end_B1 = counts_B[:, None] - 1
        own_n = torch.arange(self.begins_Bn.shape[1], device=end_B1.device)
        same_Bn = (self.begins_Bn == self.begins_Bn.gather(1, end_B1)) & (own_n <= end_B1)
        return same_Bn, self.later_Bn.gather(1, end_B1), self.fresh_Bn.gather(1, end_B1)


def weights_at_piece_start(model: FastWeights, first_HEE: Tensor, places_B: Tensor, mini_batch: int) -> FastWeights:
    """The model at the first token of a piece, which is at these places: a mini-batch that is whole has been learned from, and
    a document begins with W_0."""
    place_B111 = places_B[:, None, None, None]
    whole_B111 = place_B111 % mini_batch == 0
    learned_BHEE = torch.where(whole_B111, model.weights_BHEE - model.sum_BHEE, model.weights_BHEE)
    return FastWeights(
        torch.where(place_B111 == 0, first_HEE, learned_BHEE), model.sum_BHEE.masked_fill(whole_B111, 0.0)
    )


def read(
    model: FastWeights,
    first_HEE: Tensor,
    norm: Norm,
    tokens: tuple[Tensor, Tensor, Tensor, Tensor],
    places: Places,
    mixed: bool,
    counts_B: Tensor | None = None,
) -> tuple[Tensor, FastWeights]:
    """(y_BHnE of a piece, the model behind it). tokens: q, k and v, B x H x n x E, and eta, B x H x n x 1. mixed: tokens of
    more than one mini-batch may be in a row of the piece. counts_B: tokens of each row, at least 1, all others being
    padding."""
    q, k, v, eta = tokens
    W, gathered = model
    later_B1n1, fresh_B1n1 = (where[:, None, :, None] for where in (places.later_Bn, places.fresh_Bn))
    z = k @ W
    next_BHEE = W
    if mixed:
        old_B1n1 = ~(later_B1n1 | fresh_B1n1)
        next_BHEE = W - gathered - k.mT @ (norm.gradient(z, k, v) * eta * old_B1n1)
        z = torch.where(later_B1n1, k @ next_BHEE, torch.where(fresh_B1n1, k @ first_HEE, z))
    g = norm.gradient(z, k, v) * eta
    looked = q @ (W - gathered)
    if mixed:
        looked = torch.where(later_B1n1, q @ next_BHEE, torch.where(fresh_B1n1, q @ first_HEE, looked))
    own_n = torch.arange(q.shape[2], device=q.device)
    seen_Bnn = (places.begins_Bn[:, :, None] == places.begins_Bn[:, None]) & (own_n[:, None] >= own_n)
    looked = looked - (q @ k.mT * seen_Bnn[:, None]) @ g
    y = q + norm.scaled(norm.standard(looked)[0])
    same_Bn, later_B1, fresh_B1 = places.last(counts_B)
    added = k.mT @ (g * same_Bn[:, None, :, None])
    if mixed:
        later_B111, fresh_B111 = later_B1[..., None, None], fresh_B1[..., None, None]
        W = torch.where(later_B111, next_BHEE, torch.where(fresh_B111, first_HEE, W))
        gathered = gathered.masked_fill(later_B111 | fresh_B111, 0.0)
    return y, FastWeights(W, gathered + added)


class State:
    """A Model for each row, in fp32 at least: sums over all tokens before."""

    def __init__(self, shape: Shape, rows: int, device: torch.device | None, dtype: torch.dtype) -> None:
        size = (rows, shape.heads, shape.head_dim, shape.head_dim)
        wide = torch.promote_types(dtype, torch.float32)
        self.model = FastWeights(*(torch.zeros(size, device=device, dtype=wide) for _ in range(2)))

    def take(self, rows: Tensor, other: "State", theirs: Tensor) -> None:
        """Have these rows begin as those of another state."""
        for mine, others in zip(self.model, other.model, strict=True):
            mine[rows] = others[theirs]


class TTTHeads(nn.Module):
    """Projections to heads and back; between them each head's model learns and answers, in fp32 at least. context.shared: the
    place of each token in its document, B x T; None where a row is one."""

    def __init__(self, shape: Shape, mini_batch: int, rate: float) -> None:
        super().__init__()
        self.heads, self.head_width = shape.heads, shape.head_dim
        self.mini_batch, self.rate, self.eps = mini_batch, rate, shape.norm_eps
        inner = shape.heads * shape.head_dim
        self.query = nn.Linear(shape.width, inner, bias=False)
        self.key = nn.Linear(shape.width, inner, bias=False)
        self.value = nn.Linear(shape.width, inner, bias=False)
        self.step = nn.Linear(shape.width, shape.heads)
        self.output = nn.Linear(inner, shape.width, bias=False)
        self.first = nn.Parameter(torch.eye(shape.head_dim).repeat(shape.heads, 1, 1))
        self.scale = nn.Parameter(torch.ones(shape.heads, shape.head_dim))
        self.shift = nn.Parameter(torch.zeros(shape.heads, shape.head_dim))

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, _ = x_BTD.shape
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        made = [each.to(wide) for each in projections(x_BTD, (self.query, self.key, self.value, self.step))]
        q, k, v = (each.view(B, T, self.heads, self.head_width).transpose(1, 2) for each in made[:3])
        eta = self.rate * torch.sigmoid(made[3]).mT[..., None]
        with torch.autocast(x_BTD.device.type, enabled=False):
            y_BHTE = self.learned((q, k, v, eta), context)
        return self.output(y_BHTE.transpose(1, 2).reshape(B, T, -1).to(x_BTD.dtype))

    def learned(self, tokens: tuple[Tensor, ...], context: Context) -> Tensor:
        """y_BHTE, a piece after the other; a state becomes that behind the last token of each row."""
        B, _, T, _ = tokens[0].shape
        first, state, counts_B = self.first.to(tokens[0].dtype), context.state, context.counts_B
        norm = Norm(self.scale.to(first.dtype), self.shift.to(first.dtype), self.eps)
        start_BHEE = first.expand(B, -1, -1, -1)
        model = FastWeights(start_BHEE, torch.zeros_like(start_BHEE)) if state is None else state.model
        places_BT = context.shared if state is None else context.positions_BT
        if places_BT is None:
            places_BT = torch.arange(T, device=first.device).expand(B, T)
        aligned = state is None and context.shared is None
        found = []
        for start in range(0, T, self.mini_batch):
            piece = slice(start, min(start + self.mini_batch, T))
            own = tuple(each[:, :, piece] for each in tokens)
            mixed = not aligned and piece.stop - start > 1
            places = Places.of(places_BT[:, piece], self.mini_batch)
            opened = weights_at_piece_start(model, first, places_BT[:, start], self.mini_batch)
            left_B = None if counts_B is None else (counts_B - start).clamp(1, piece.stop - start)
            y, after = read(opened, first, norm, own, places, mixed, left_B)  # type: ignore[arg-type]
            if counts_B is not None:
                has_B111 = (counts_B > start)[:, None, None, None]
                after = FastWeights(*(torch.where(has_B111, new, old) for new, old in zip(after, model, strict=True)))
            model = after
            found.append(y)
        if state is not None:
            for kept, new in zip(state.model, model, strict=True):
                kept.copy_(new)
        return torch.cat(found, 2)


class TTTLinear(Mixer):
    name: Literal["ttt_linear"] = "ttt_linear"
    mini_batch: int = Field(16, gt=0, description="tokens whose gradients are those at the same weights")
    rate: float = Field(1.0, gt=0, description="the most that a gradient is multiplied with")
    into_stream = ("output",)

    def build(self, shape: Shape) -> TTTHeads:
        return TTTHeads(shape, self.mini_batch, self.rate)

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of a token in a row that is one document: k W, q W and the sum of gradients, 6 E^2 a head forward, and two
        products with the tokens of a mini-batch, 2 E for each of them; twice that backward."""
        width, tokens = shape.head_dim, min(self.mini_batch, length)
        return 3.0 * shape.heads * (6 * width**2 + 4 * width * tokens)

    def state(self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype) -> State:
        return State(shape, rows, device, dtype)

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return 2 * shape.heads * shape.head_dim**2

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Tensor | None:
        if context.documents is None:
            return None
        starts_N = context.documents.starts_N
        places_N = torch.arange(rows * length, dtype=starts_N.dtype, device=starts_N.device) - starts_N
        return places_N.view(rows, length)
