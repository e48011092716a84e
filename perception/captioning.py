"""Captioning: a sentence about each picture, word by word (NIC: Vinyals et al. 2015)."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, lit, shown

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<begin>", "<end>", "<unknown>"]
LONGEST = 64  # words of a sentence that is said, BEGIN and END among them
ATTENDED = 2  # pictures of a sheet whose words are drawn one by one


def words_of(caption: str) -> list[str]:
    """Split a caption into words and punctuation marks, in lower case."""
    return re.findall(r"<unknown>|[\w'-]+|[^\w\s]", caption.lower())


def vocabulary(captions: Iterable[str]) -> list[str]:
    """Return all words, the most frequent first, after the four special ones."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return SPECIAL + [word for word, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]


def encode(captions: Sequence[str], words: Sequence[str]) -> NDArray[np.int64]:
    """Return each caption as numbers of words, (N, longest), from BEGIN to END, then PAD."""
    number = {word: i for i, word in enumerate(words)}
    rows = [[BEGIN, *(number.get(word, UNKNOWN) for word in words_of(caption)), END] for caption in captions]
    tokens = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens


def decode(tokens: Iterable[int], words: Sequence[str]) -> str:
    """Return the sentence that numbers of words stand for, up to END."""
    said: list[str] = []
    for token in tokens:
        if token in (END, PAD):
            break
        if token != BEGIN:
            said.append(words[token])
    return re.sub(r" ([^\w\s<])", r"\1", " ".join(said))


class CaptionHead(nn.Module):
    """A recurrent decoder that the features start: a GRU (Cho et al. 2014), an LSTM, or a GRU with attention.

    The features also stand beside the state when a word is chosen (Mao et al. 2015, section 3): started alone, it says
    the same of every picture for thousands of updates. Attention (Xu et al. 2015, section 3.1, with the scores of Luong
    et al. 2015, equation 8, "general") looks at the coarsest map's places anew for each word, and knows where each of
    them is by a learnt vector.
    """

    def __init__(
        self, backbone: Backbone, size: tuple[int, int], num_words: int, kind: str, dropout: float, width: int = 256
    ) -> None:
        super().__init__()
        height, line = backbone.map_size(*size)
        channels = backbone.stages[-1].channels
        self.attends, self.is_lstm = kind == "attention", kind == "lstm"
        self.begin = nn.Linear(channels * height * line, width)
        self.embed = nn.Embedding(num_words, width)
        self.dropout = nn.Dropout(dropout)
        self.cell: nn.Module = (nn.LSTMCell if self.is_lstm else nn.GRUCell)(
            2 * width if self.attends else width, width
        )
        if self.attends:
            self.places = nn.Parameter(0.1 * torch.randn(height * line, width))
            self.keys = nn.Linear(channels, width)
            self.query = nn.Linear(width, width)
        self.scores = nn.Linear(width, num_words)

    def start(self, maps: list[Tensor]) -> "tuple[Tensor, ...]":
        """Return the state after looking.

        Hidden (B, width), the LSTM's cell (B, width), the image (B, width), and keys (B, places, width).
        """
        coarse = maps[-1]
        image = self.begin(coarse.flatten(1))
        hidden = torch.tanh(image)
        keys = image[:, None]
        if self.attends:
            keys = self.keys(coarse.flatten(2).transpose(1, 2))
            keys = keys + self.places.to(keys.dtype)
        return hidden, torch.zeros_like(hidden), image, keys

    def step(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Take the last words (B,); return logits (B, words) of the next, places seen (B, H × W), and the state."""
        hidden, memory, image, keys = state
        inputs = self.dropout(self.embed(tokens))
        weights, seen = torch.ones_like(keys[..., 0]), image
        if self.attends:
            scores = torch.einsum("bpw,bw->bp", keys, self.query(hidden)) / math.sqrt(keys.shape[-1])
            weights = scores.softmax(dim=1)
            context = torch.einsum("bp,bpw->bw", weights, keys)
            inputs, seen = torch.cat([inputs, context], dim=1), image + context
        if self.is_lstm:
            hidden, memory = self.cell(inputs, (hidden, memory))
        else:
            hidden = self.cell(inputs, hidden)
        return self.scores(self.dropout(hidden + seen)), weights, (hidden, memory, image, keys)

    def forward(self, maps: list[Tensor], tokens: Tensor) -> Tensor:
        """Return logits (B, T - 1, words) of each word after the first, told the true ones before it (B, T)."""
        state, logits = self.start(maps), []
        for place in range(tokens.shape[1] - 1):
            scores, _, state = self.step(tokens[:, place], state)
            logits.append(scores)
        return torch.stack(logits, dim=1)

    def say(self, maps: list[Tensor], beam_width: int = 1, longest: int = LONGEST) -> Tensor:
        """Return the likeliest sentence found, (B, longest) from BEGIN, by keeping `beam_width` at each word.

        Those that have ended stay as they are; in the end the best by log-probability a word counts. Nobody says
        UNKNOWN.
        """
        state = self.start(maps)
        batch, words = len(state[0]), self.scores.out_features
        state = tuple(part.repeat_interleave(beam_width, dim=0) for part in state)
        said = torch.full((batch * beam_width, 1), BEGIN, device=state[0].device)
        # All beams begin alike: only the first may be taken from at first.
        total = torch.full((batch, beam_width), -torch.inf, device=said.device)
        total[:, 0] = 0
        ended = torch.zeros_like(said[:, 0], dtype=torch.bool)
        first = torch.arange(batch, device=said.device)[:, None] * beam_width
        for _ in range(longest - 1):
            logits, _, state = self.step(said[:, -1], state)
            scores = logits.float().log_softmax(dim=1)
            scores[:, [PAD, BEGIN, UNKNOWN]] = -torch.inf
            scores[ended] = -torch.inf
            scores[ended, PAD] = 0
            every = (total[:, :, None] + scores.view(batch, beam_width, words)).flatten(1)
            total, chosen = every.topk(beam_width, dim=1)
            source = (first + chosen // words).flatten()
            said = torch.cat([said[source], (chosen % words).view(-1, 1)], dim=1)
            state = tuple(part[source] for part in state)
            ended = ended[source] | (said[:, -1] == END)
            if ended.all():
                break
        lengths = (said[:, 1:] != PAD).sum(dim=1).view(batch, beam_width)
        best = (total / lengths).argmax(dim=1) + first[:, 0]
        return F.pad(said[best], (0, longest - said.shape[1]), value=PAD)

    @torch.no_grad()
    def looked(self, maps: list[Tensor], tokens: Tensor) -> Tensor:
        """Return where it looked for each word but the first of sentences (B, T): (B, T - 1, H, W), adding up to 1."""
        state, places = self.start(maps), []
        for place in range(tokens.shape[1] - 1):
            _, weights, state = self.step(tokens[:, place], state)
            places.append(weights)
        return torch.stack(places, dim=1).unflatten(2, maps[-1].shape[2:])


def captioning_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross entropy (), a mean over words: what the first T - 1 words (B, T) make of the next.

    Args:
        logits: (B, T - 1, words).
        tokens: (B, T) from BEGIN to END, then PAD, which counts for nothing.
    """
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)


class Captioning:
    """The task: a vocabulary and, where there is one, a judge of what sentences claim."""

    def __init__(self, words: list[str], beam_width: int, share_true: Callable[[str, str], float] | None) -> None:
        """`share_true(said, true)` is the share of right facts; without it BLEU says which checkpoint is best."""
        self.words_known, self.beam_width, self.share_true = words, beam_width, share_true
        self.metric = "bleu4" if share_true is None else "facts_true"

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:
        """Return a fresh head: `attention`, `gru` or `lstm`."""
        return CaptionHead(backbone, size, len(self.words_known), kind, dropout)

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """Return `captioning_loss` of sentences (B, T), each word told the true ones before it."""
        return captioning_loss(network.head(network.see(images), targets).float(), targets)

    def guess_loss(self, batch_size: int) -> float:  # noqa: ARG002
        """Return log C of C words."""
        return math.log(len(self.words_known))

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return a sentence for each image, (B, LONGEST)."""
        return _head_of(network).say(network.see(images), self.beam_width)

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Return BLEU-4 (Papineni et al. 2002) and the share of facts that are true.

        Targets are a sentence for each picture, (B, T), or several, (B, K, T), of which empty ones are none. Beside
        both what they are against another picture's, half the split away: phrases that every sentence has make BLEU
        high by themselves.
        """
        from torchmetrics.functional.text import bleu_score  # a second and a half

        said = [self.words(row) for row in answers.tolist()]
        several = targets if targets.dim() == 3 else targets[:, None]
        true = [[self.words(row) for row in rows if row[0] != PAD] for rows in several.tolist()]
        others = true[len(true) // 2 :] + true[: len(true) // 2]
        result = {}
        for name, against in (("", true), ("_shuffled", others)):
            spaced = [[" ".join(words_of(caption)) for caption in captions] for captions in against]
            result[f"bleu4{name}"] = float(bleu_score([" ".join(words_of(caption)) for caption in said], spaced))
            if self.share_true is not None:
                shares = [self.share_true(one, two[0]) for one, two in zip(said, against, strict=True)]
                result[f"facts_true{name}"] = float(np.mean(shares))
        return result

    def majority(self, targets: Tensor) -> Tensor:
        """Return the commonest of sentences (B, T), (LONGEST,): what a blind guess says."""
        sentences, counts = targets.unique(dim=0, return_counts=True)
        commonest = sentences[counts.argmax()][:LONGEST]
        return F.pad(commonest, (0, LONGEST - len(commonest)), value=PAD)

    def words(self, answer: Iterable[int]) -> str:
        """Return the sentence."""
        return decode(answer, self.words_known)

    def picture(
        self, network: PerceptionNetwork, images: NDArray[np.uint8], answers: Tensor, targets: Tensor | None = None
    ) -> Picture:
        """Draw images (B, C, H, W) with what is said of each and, where it differs, what is true.

        With attention, then the first of them again for every word, lit up where it looked.
        """
        tiles = []
        for number, (image, answer) in enumerate(zip(images, answers.tolist(), strict=True)):
            said = self.words(answer)
            if targets is not None and (truth := self.words(targets[number].tolist())) != said:
                said += f" (truly: {truth})"
            tiles.append((shown(image), said))
        rows = beside(tiles)
        head = _head_of(network)
        if head.attends:
            few = torch.from_numpy(images[:ATTENDED]).to(next(network.parameters()).device)
            with torch.no_grad():
                places = head.looked(network.see(few), answers[:ATTENDED].to(few.device)).cpu()
            for image, answer, looked in zip(images, answers.tolist(), places, strict=False):
                words = [self.words_known[token] for token in answer[1:] if token not in (PAD, END)]
                tiles = [(lit(shown(image), where.numpy()), word) for where, word in zip(looked, words, strict=False)]
                rows += beside(tiles, columns=12)
        return contact_sheet(rows)


def _head_of(network: PerceptionNetwork) -> CaptionHead:
    assert isinstance(network.head, CaptionHead)
    return network.head
