import itertools
import math

import numpy as np
import pytest
import torch

from perception.backbones import BACKBONES, NatureCNN
from perception.captioning import (
    BEGIN,
    END,
    LONGEST,
    PAD,
    UNKNOWN,
    CaptionHead,
    Captioning,
    captioning_loss,
    decode,
    encode,
    vocabulary,
)
from perception.datasets import Dataset, DatasetError, sentences
from perception.networks import PerceptionNetwork


def test_words_there_and_back() -> None:
    captions = ["The ball is high; the score is 3 to 12.", "the ball is low"]
    words = vocabulary(captions)
    assert words[:4] == ["<pad>", "<begin>", "<end>", "<unknown>"]
    assert words[4:] == ["is", "the", "ball", ".", "12", "3", ";", "high", "low", "score", "to"]
    tokens = encode([*captions, "the cat is high"], words)
    assert tokens.shape == (3, 14) and tokens[1].tolist() == [BEGIN, 5, 6, 4, 12, END] + [PAD] * 8
    assert decode(tokens[0], words) == "the ball is high; the score is 3 to 12."
    assert decode(tokens[2], words) == "the <unknown> is high" and UNKNOWN in tokens[2]


def test_captions_are_read_in_the_words_that_a_network_knows() -> None:
    captions = ["the ball is high", "the cat is high high"]
    targets, names = sentences(captions, np.array([0, 1]))
    data = Dataset("some", 1, (84, 84), {}, lambda at: np.zeros((len(at), 1, 84, 84), np.uint8), targets, names)
    known = {"words": vocabulary(["a ball is in the high sky"])}
    read = data.numbered_as(known)
    assert [decode(row, read.names["words"]) for row in read.targets] == [captions[0], "the <unknown> is high high"]
    assert [decode(row, names["words"]) for row in data.targets] == captions and read.names == known
    with pytest.raises(DatasetError, match="captions are about: pong"):
        data.numbered_as({**known, "game": "pong"})  # type: ignore[dict-item]


def test_a_sentence_is_measured_against_all_that_a_picture_has() -> None:
    captions = ["a red ball lies here", "one ball, all red", "there is a green bat", "a bat"]
    words = vocabulary(captions)
    task = Captioning(words, 1, None)
    tokens = torch.from_numpy(encode([*captions, "a red cat lies here"], words))
    references = torch.stack([tokens[:2], tokens[2:4]])
    either = [task.measure(torch.stack([tokens[i], tokens[2]]), references) for i in (0, 1)]
    assert [measured["bleu4"] for measured in either] == [1.0, 1.0] and either[0]["bleu4_shuffled"] < 0.5
    alone = torch.stack([tokens[:1], tokens[2:3]])
    padded = torch.cat([alone, torch.full_like(alone, PAD)], dim=1)
    answers = torch.stack([tokens[4], tokens[2]])
    assert task.measure(answers, padded) == task.measure(answers, alone) == task.measure(answers, alone[:, 0])


def test_bleu_counts_up_to_four_words_in_a_row() -> None:
    """Of five words four are right, of the pairs 3 of 4, of the threes 2 of 3, of the fours 1 of 2."""
    captions = ["a red ball lies here", "a red ball lies there"]
    words = vocabulary(captions)
    said, true = torch.from_numpy(encode(captions, words))[:, None]
    measured = Captioning(words, 1, None).measure(said, true)
    assert measured["bleu4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_loss_against_a_hand_worked_table() -> None:
    """The first sentence has two words to guess, the second one; padding counts for nothing."""
    logits = torch.zeros(2, 2, 5)
    logits[0, 0, 4], logits[0, 1, END] = math.log(4), math.log(6)  # 4 of 8, 6 of 10
    logits[1, 1] = 99.0 * torch.arange(5)  # nothing may be read here
    tokens = torch.tensor([[BEGIN, 4, END], [BEGIN, END, PAD]])
    expected = -(math.log(4 / 8) + math.log(6 / 10) + math.log(1 / 5)) / 3
    assert float(captioning_loss(logits, tokens)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["attention", "gru", "lstm"])
def test_teacher_forcing_is_saying_word_by_word(kind: str) -> None:
    torch.manual_seed(0)
    backbone = NatureCNN(1)
    head = CaptionHead(backbone, (44, 52), 9, kind, 0.0, width=16)
    maps = backbone(torch.rand(3, 1, 44, 52))
    said = head.say(maps, longest=7)
    assert said.shape == (3, 7) and (said[:, 0] == BEGIN).all()
    logits = head(maps, said)
    logits[..., [PAD, BEGIN, UNKNOWN]] = -torch.inf
    for row, scores in zip(said, logits, strict=True):
        for word, likeliest in zip(row[1:].tolist(), scores.argmax(dim=1).tolist(), strict=True):
            assert word == likeliest
            if word == END:
                break
    if kind == "attention":
        looked = head.looked(maps, said)
        assert looked.shape == (3, 6, 2, 3)
        torch.testing.assert_close(looked.sum(dim=(2, 3)), torch.ones(3, 6))
        # A map that is lit at one place draws all the attention there once the score grows with what is lit.
        lit = [torch.zeros_like(each) for each in maps]
        lit[-1][:, :, 1, 2] = 1
        with torch.no_grad():
            head.keys.weight.fill_(1.0)
            head.query.weight.zero_()
            head.query.bias.fill_(1.0)
        assert (head.looked(lit, said)[:, :, 1, 2] > 0.99).all()


def test_a_beam_as_wide_as_all_sentences_finds_the_likeliest() -> None:
    """Against its slow twin: every sentence of up to three words is scored."""
    torch.manual_seed(3)
    backbone, words = NatureCNN(1), 7
    head = CaptionHead(backbone, (36, 36), words, "gru", 0.0, width=16)
    torch.nn.init.normal_(head.scores.weight, std=2.0)
    maps = backbone(torch.rand(4, 1, 36, 36))
    sentences = [
        [BEGIN, *middle, END] for length in (0, 1, 2) for middle in itertools.product(range(4, words), repeat=length)
    ]
    sentences += [[BEGIN, *middle] for middle in itertools.product(range(4, words), repeat=3)]  # cut off
    for image in range(4):
        one = [fine[image : image + 1] for fine in maps]
        scores = []
        for sentence in sentences:
            logits = head(one, torch.tensor([sentence]))[0].detach()
            steps = logits.log_softmax(dim=1)[range(len(sentence) - 1), sentence[1:]]
            scores.append(float(steps.mean()))
        said = head.say(one, beam_width=200, longest=4)[0].tolist()
        assert [token for token in said if token != PAD] == sentences[int(np.argmax(scores))]


def test_a_sentence_about_a_dot_is_learnt() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images, captions = np.zeros((64, 1, 36, 36), np.uint8), []
    for image in images:
        y, x = rng.integers(2, 30, 2)
        image[0, y : y + 4, x : x + 4] = 255
        captions.append(f"the dot is {'high' if y < 16 else 'low'}; it is {'left' if x < 16 else 'right'}")
    words = vocabulary(captions)
    targets = torch.from_numpy(encode(captions, words))
    task = Captioning(words, 1, lambda said, true: float(said == true))
    backbone = NatureCNN(1)
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), "attention", 0.0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        task.loss(network, torch.from_numpy(images), targets).backward()
        optimizer.step()
    answers = task.answer(network, torch.from_numpy(images))
    measured = task.measure(answers, targets)
    assert answers.shape == (64, LONGEST)
    assert measured["facts_true"] > 0.95 > 0.6 > measured["facts_true_shuffled"]
    assert measured["bleu4"] > 0.95 > measured["bleu4_shuffled"] > 0.3  # what templates give by themselves
    assert task.words(answers[0].tolist()) == captions[0]
    picture = task.picture(network, images[:3], answers[:3], targets[:3])
    assert picture.shape[2] == 3 and picture.shape[0] > 3 * 168  # a row of pictures, two of words
    assert task.words(task.majority(targets).tolist()) == max(set(captions), key=captions.count)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_speaks(name: str) -> None:
    backbone = BACKBONES[name](3)  # type: ignore[call-arg]
    task = Captioning(vocabulary(["a cat"]), 2, None)
    network = PerceptionNetwork(backbone, task.make_head(backbone, (40, 44), "lstm", 0.1))
    assert task.answer(network, torch.rand(2, 3, 40, 44)).shape == (2, LONGEST)
    assert set(task.measure(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))) == {
        "bleu4",
        "bleu4_shuffled",
    }
