"""Generative adversarial network: a generator draws, the backbone tells drawn from real (Goodfellow et al. 2014)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel

from perception.autoencoding import divergence_from_standard_normal
from perception.backbones import Backbone, draw_weights, unit_scale
from perception.decoders import Generator
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, shown

AVERAGE_DECAY = 0.999  # of the generator's weights, an update
DRAWN = 3  # pictures drawn beside each real one when it is measured
SURE = 0.9  # probability from which a judge counts as sure
NEIGHBOURS = 3  # of precision and recall, as in their paper
COLUMNS = 8  # of the picture
KINDS_WIDTH = 256  # of the layers that make kinds of pictures of latents


class GANHead(nn.Module):
    """The discriminator's last layer, the generator, and the exponential average of it, which is what is shown.

    `kinds` is nothing but where there is a warm-up, in which it and `encode` learn: two layers that part the latents,
    which lie in one cloud, into kinds of pictures, which do not (Karras et al. 2019, section 2).
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], latent_size: int, warms_up: bool) -> None:
        super().__init__()
        (channels, stride), (height, width) = backbone.stages[-1], backbone.map_size(*size)
        self.latent_size = latent_size
        self.real = nn.Linear(channels * height * width, 1)
        draw_weights(self, linear_end=True)
        self.encode, self.kinds = None, nn.Identity()
        if warms_up:
            self.encode = nn.Linear(channels * height * width, 2 * latent_size)
            self.kinds = nn.Sequential(
                nn.Linear(latent_size, KINDS_WIDTH), nn.ReLU(), nn.Linear(KINDS_WIDTH, KINDS_WIDTH), nn.ReLU()
            )
            draw_weights(self.encode, linear_end=True)
            draw_weights(self.kinds)
        inputs = KINDS_WIDTH if warms_up else latent_size
        self.generator = Generator(inputs, size, stride, backbone.in_channels)
        self.average = AveragedModel(self.generator, avg_fn=average)
        self.average.requires_grad_(False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the logits (B,) of being real."""
        return self.real(maps[-1].flatten(1))[:, 0].float()

    def draw(self, latents: Tensor) -> Tensor:
        """Return what the averaged generator draws of latents (B, latent_size): (B, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.average(self.kinds(latents)).float())


def average(mean: Tensor, weight: Tensor, updates: Tensor | int) -> Tensor:
    """Return the exponential average of a weight after so many updates, over fewer of them at first."""
    return mean.lerp(weight, max(1 - AVERAGE_DECAY, 9 / (10 + float(updates))))


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Return minus the value of the game (), in nats: -E log D(x) - E log(1 - D(G(z))) of logits (B,), (B,).

    Goodfellow et al. 2014, equation 1; log 4 where nothing can be told apart.
    """
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def generator_loss(drawn: Tensor) -> Tensor:
    """Return the non-saturating loss (), -E log D(G(z)), of logits (B,) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-drawn).mean()


def precision_and_recall(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Return which share of what is drawn is near something real, and the other way round (Kynkäänniemi et al. 2019).

    Near is within the distance of that one's own `NEIGHBOURS`-th neighbour, among features (N, F) and (M, F).
    """
    distances = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")  # the other cancels digits
    between = distances(real, drawn)
    reach = [distances(x, x).kthvalue(NEIGHBOURS + 1, dim=1).values for x in (real, drawn)]  # the first is itself
    precision = (between <= reach[0][:, None]).any(dim=0).float().mean()
    recall = (between <= reach[1][None]).any(dim=1).float().mean()
    return float(precision), float(recall)


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """Return the Fréchet distance of normal distributions fitted to features (N, F), (M, F) (Heusel et al. 2017)."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # a second and a half

    features = nn.Identity()
    features.num_features = real.shape[1]  # type: ignore[assignment]
    distance = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
    distance.update(real.double(), real=True)
    distance.update(drawn.double(), real=False)
    return float(distance.compute())


@dataclass
class Judge:
    """In whose features distances are taken and, where there are classes, who tells what a picture shows."""

    network: PerceptionNetwork | None
    """None until there is a backbone to have the same kind, of random weights, which serve nearly as well (Naeem et
    al. 2020, section 3)."""
    classes: list[str]
    size: tuple[int, int] | None
    """Height and width that it looks at; None for any."""

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """Return of images (B, C, H, W) the likeliest class, its probability, and features: (B, 2 + F)."""
        assert self.network is not None
        maps = self.network.eval().to(images.device).see(images)
        features = maps[-1].float().mean(dim=(2, 3))
        chances = torch.ones(len(images), 1, device=images.device)
        if self.classes:
            chances = self.network.head(maps).float().softmax(dim=1)
        best = chances.max(dim=1)
        return torch.cat([best.indices[:, None], best.values[:, None], features], dim=1)


class GAN:
    """The task: no labels, and a judge who measures."""

    metric = "frechet"

    def __init__(self, latent_size: int, normalized: bool, warm_up_updates: int, judge: Judge) -> None:
        """`normalized`: spectral normalisation of the discriminator (Miyato et al. 2018).

        A `vae-gan` learns for `warm_up_updates` as a variational autoencoder whose encoder is the backbone and whose
        decoder the generator (Larsen et al. 2016 join the two), which then draws all kinds there are, blurred; of
        pictures as different as those of several games it settles on one else.
        """
        self.latent_size, self.normalized, self.judge = latent_size, normalized, judge
        self.warm_up_updates = warm_up_updates

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:  # noqa: ARG002
        """Return a fresh head, `dcgan` or `vae-gan`; normalise the backbone if that is wanted.

        Raises:
            ValueError: the judge looks at images of another size or number of channels.
        """
        if self.judge.network is not None and self.judge.size is not None:
            wanted, given = (backbone.in_channels, *size), (self.judge.network.backbone.in_channels, *self.judge.size)
            if wanted != given:
                raise ValueError(
                    f"the judge looks at images of channels, height and width {given}, these are {wanted}: train it on "
                    "the same --data, with the same --image-size"
                )
        head = GANHead(backbone, size, self.latent_size, warms_up=kind == "vae-gan")
        if self.judge.network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                eye = type(backbone)(backbone.in_channels)  # type: ignore[call-arg]
                draw_weights(eye)
            self.judge.network = PerceptionNetwork(eye, nn.Identity(), frozen=True)
        if self.normalized:
            for layer in [*backbone.modules(), head.real]:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    spectral_norm(layer)
        return head

    def latents(self, count: int, seed: int | None = None) -> Tensor:
        """Return `count` latents, (count, latent_size), from a standard normal distribution."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randn(count, self.latent_size, generator=generator)

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return the discriminator's loss, which moves it alone, plus the generator's, which moves that alone.

        In the warm-up, the autoencoder's.
        """
        head = _head_of(network)
        warming_up = head.encode is not None and int(head.average.n_averaged) < self.warm_up_updates
        if network.training:
            head.average.update_parameters(head.generator)  # with what the update before made of it
        if warming_up:
            return self._coding_loss(network, unit_scale(images, torch.float32))
        with torch.no_grad():  # or all kinds soon become one
            kinds = head.kinds(self.latents(len(images)).to(images.device))
        drawn = torch.sigmoid(head.generator(kinds).float())
        seen = network(torch.cat([unit_scale(images, drawn.dtype), drawn.detach()]))
        held = {name: weight.detach() for name, weight in network.named_parameters()}
        fooled = functional_call(network, held, (drawn,))
        return discriminator_loss(*seen.chunk(2)) + generator_loss(fooled)

    def _coding_loss(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return minus the evidence's lower bound (), less a constant, in nats a picture (Kingma & Welling 2014).

        Of a normal distribution of variance 1/2 around each pixel of images (B, C, H, W). A picture, not a pixel: its
        gradients are as large as the game's, or those would make the optimizer leap after the warm-up.
        """
        head = _head_of(network)
        assert head.encode is not None
        mean, log_variance = head.encode(network.see(images)[-1].flatten(1)).float().chunk(2, dim=1)
        codes = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        error = (torch.sigmoid(head.generator(head.kinds(codes)).float()) - images) ** 2
        return (error.flatten(1).sum(dim=1) + divergence_from_standard_normal(mean, log_variance)).mean()

    def guess_loss(self, batch_size: int) -> None:
        """Return nothing: what the one loses the other wins."""

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return of each image and of DRAWN drawn ones what D and the judge say: (B, 1 + DRAWN, 3 + F).

        D's probability, then `Judge.look`. What is drawn comes from torch's own generator.
        """
        drawn = _head_of(network).draw(self.latents(len(images) * DRAWN).to(images.device))
        rows = []
        for batch, each in ((unit_scale(images, drawn.dtype), 1), ((drawn * 255).round() / 255, DRAWN)):
            chance = torch.sigmoid(network(batch))[:, None]
            rows.append(torch.cat([chance, self.judge.look(batch)], dim=1).unflatten(0, (len(images), each)))
        return torch.cat(rows, dim=1)

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Return Fréchet distance, precision and recall in the judge's features, and how the game stands.

        With a judge who knows classes also the number of modes, and the share of what is drawn that he is sure of. A
        mode is a class that he surely sees at least a tenth as often as if all were drawn alike.
        """
        real, drawn = answers[:, 0], answers[:, 1:].flatten(0, 1)
        precision, recall = precision_and_recall(real[:, 3:], drawn[:, 3:])
        result = {"frechet": frechet_distance(real[:, 3:], drawn[:, 3:]), "precision": precision, "recall": recall}
        if classes := len(self.judge.classes):
            surely = drawn[:, 2] >= SURE
            counts = drawn[surely, 1].long().bincount(minlength=classes)
            result |= {"modes": int((counts >= 0.1 * len(drawn) / classes).sum()), "sure": float(surely.float().mean())}
        true, false = real[:, 0].double(), drawn[:, 0].double()
        value = true.clamp(min=1e-12).log().mean() + (1 - false).clamp(min=1e-12).log().mean()
        return result | {"d_real": float(true.mean()), "d_drawn": float(false.mean()), "value": float(value)}

    def majority(self, targets: Tensor) -> Tensor:
        """Nobody guesses blindly here."""
        raise NotImplementedError

    def words(self, answer: Sequence[float]) -> str:
        """Say how real it looks."""
        return f"{answer[0]:.0%} real"

    @torch.no_grad()
    def picture(
        self,
        network: PerceptionNetwork,
        images: NDArray[np.uint8],
        answers: Tensor,
        targets: Tensor | None = None,  # noqa: ARG002
    ) -> Picture:
        """Draw rows of latents, always the same, ways between two, sums, and images (B, C, H, W), the real ones."""
        fixed = self.latents(3 * COLUMNS, seed=0)
        way = torch.linspace(0, 1, COLUMNS)
        ways = [spherical(fixed[2 * i], fixed[2 * i + 1], way) for i in range(2)]
        sums, names = self._sums(network)
        latents = torch.cat([fixed, *ways, sums]).to(next(network.parameters()).device)
        drawn = (_head_of(network).draw(latents) * 255).round().byte().cpu().numpy()
        words = [""] * (3 * COLUMNS)
        words += [f"{share:.0%}" for share in way.tolist()] * 2 + names
        tiles = [(shown(image), word) for image, word in zip(drawn, words, strict=True)]
        real = zip(images, answers, strict=True)
        tiles += [(shown(image), f"real: {self.words(answer.flatten().tolist())}") for image, answer in real]
        return contact_sheet(beside(tiles, columns=COLUMNS))

    def _sums(self, network: PerceptionNetwork) -> tuple[Tensor, list[str]]:
        """Return a row of latents and their names: a, the means of a's and b's kinds, a less the one plus the other.

        As in Radford et al. 2016, figure 7, with classes that the judge surely sees in what is drawn; without such,
        of three single ones.
        """
        latents = self.latents(64 * COLUMNS, seed=1)
        seen = torch.zeros(len(latents), 2)
        if self.judge.classes:
            seen = self.judge.look(_head_of(network).draw(latents.to(next(network.parameters()).device))).cpu()
        surely = seen[:, 1] >= SURE
        counts = seen[surely, 0].long().bincount(minlength=2)
        if (counts > 0).sum() < 2:
            a, b, c, d, e, f = latents[:6]
            rows = [a, b, c, a - b + c, d, e, f, d - e + f]
            return _on_sphere(torch.stack(rows)), ["a", "b", "c", "a - b + c", "d", "e", "f", "d - e + f"]
        (one, two), rows, names = counts.topk(2).indices.tolist(), [], []
        for this, other in ((one, two), (two, one)):
            kinds = [latents[surely & (seen[:, 0] == kind)] for kind in (this, other)]
            means = [kind.mean(dim=0) for kind in kinds]
            rows += [kinds[0][0], *means, kinds[0][0] - means[0] + means[1]]
            a, b = (self.judge.classes[kind] for kind in (this, other))
            names += [f"a {a}", f"mean of {a}", f"mean of {b}", f"{a} - mean of {a} + mean of {b}"]
        return _on_sphere(torch.stack(rows)), names


def spherical(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return latents (N, D) on the way from one (D,) to another: on the arc, where normal ones lie (White 2016)."""
    angle = torch.arccos(F.cosine_similarity(start, end, dim=0))
    return (torch.outer(torch.sin((1 - shares) * angle), start) + torch.outer(torch.sin(shares * angle), end)) / (
        torch.sin(angle)
    )


def _on_sphere(latents: Tensor) -> Tensor:
    """Bring latents (N, D) to the length that normal ones have."""
    return F.normalize(latents) * math.sqrt(latents.shape[1])


def _head_of(network: PerceptionNetwork) -> GANHead:
    assert isinstance(network.head, GANHead)
    return network.head
